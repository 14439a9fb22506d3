"""VideoMAE V2 ViT-H, dual masking, pretrained on the unlabelled hybrid for 300 epochs (arXiv:2303.16727).

Numbers: the released script, cited in the ``_base_`` files. Learning rate 1e-3 per 256 videos, 2048 a step, each in
         four crops with masks of their own (8192 samples; 1200 epochs as the paper counts).
Run: bash tools/dist_train.sh configs/videomae/v2_vit-h_hybrid.py 8
Hardware of the release: 64 GPUs.
Expect: nothing published.
     Ours: not yet run.
"""

_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/models/videomae_v2_vit-base.py',
    '../_base_/datasets/videomae_v2_hybrid.py',
    '../_base_/schedules/videomae_800e.py',
]

model = _base_.sizes.huge
train_dataloader = dict(batch_sampler=dict(global_batch_size=8192))
optim_wrapper = dict(optimizer=dict(lr=8e-3))
param_scheduler = dict(warmup_epochs=30)
train_cfg = dict(max_epochs=300)
