"""VideoMAE V2 ViT-g, dual masking, pretrained on the unlabelled hybrid for 300 epochs (arXiv:2303.16727).

Numbers: the released script, cited in the ``_base_`` files. Learning rate 6e-4 per 256 videos, 2048 a step, each in
         four crops with masks of their own (8192 samples; 1200 epochs as the paper counts).
Run: bash tools/dist_train.sh configs/videomae/v2_vit-g_hybrid.py 8
Hardware of the release: 64 GPUs of 80 GB.
Expect: after K710 and fine-tuning, top-1 of 88.4 on K400, 88.8 on K600 and 77.0 on SSv2 (released).
     Ours: not yet run.
"""

_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/models/videomae_v2_vit-base.py',
    '../_base_/datasets/videomae_v2_hybrid.py',
    '../_base_/schedules/videomae_800e.py',
]

model = _base_.sizes.giant
train_dataloader = dict(batch_sampler=dict(global_batch_size=8192))
optim_wrapper = dict(optimizer=dict(lr=4.8e-3), clip_grad=dict(max_norm=0.02))
param_scheduler = dict(warmup_epochs=30)
train_cfg = dict(max_epochs=300)
