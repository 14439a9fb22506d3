"""VideoMAE ViT-S, pretrained on SSv2 for 2400 epochs (arXiv:2203.12602).

Numbers: the released script, cited in the ``_base_`` files. Learning rate 1.5e-4 per 256 clips, 1024 a step. The
         script's comment says 4 nodes of 8 GPUs with 32 clips each, its arguments start 8 nodes (2048 clips); 1024 is
         also the batch of the paper's appendix B, and of the script of K400.
Run: bash tools/dist_train.sh configs/videomae/vit-s_ssv2.py 8
Hardware of the release: 32 GPUs.
Expect: top-1 of 66.8 on SSv2 after fine-tuning, 2x3 views (released).
     Ours: not yet run.
"""

_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/models/videomae_vit-base.py',
    '../_base_/datasets/videomae_ssv2.py',
    '../_base_/schedules/videomae_800e.py',
]

model = _base_.sizes.small
train_dataloader = dict(batch_sampler=dict(global_batch_size=1024))
optim_wrapper = dict(optimizer=dict(lr=6e-4))
param_scheduler = dict(end_lr=4e-5)
train_cfg = dict(max_epochs=2400)
