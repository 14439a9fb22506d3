"""VideoMAE ViT-L, pretrained on K400 for 1600 epochs (arXiv:2203.12602).

Numbers: the released script, cited in the ``_base_`` files. Learning rate 1.5e-4 per 256 clips, 512 a step.
Run: bash tools/dist_train.sh configs/videomae/vit-l_k400.py 8
Hardware of the release: 64 GPUs.
Expect: top-1 of 85.2 on K400 after fine-tuning, 5x3 views (released).
     Ours: not yet run.
"""

_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/models/videomae_vit-base.py',
    '../_base_/datasets/videomae_k400.py',
    '../_base_/schedules/videomae_800e.py',
]

model = _base_.sizes.large
train_dataloader = dict(batch_sampler=dict(global_batch_size=512))
optim_wrapper = dict(optimizer=dict(lr=3e-4))
param_scheduler = dict(end_lr=2e-5)
train_cfg = dict(max_epochs=1600)
