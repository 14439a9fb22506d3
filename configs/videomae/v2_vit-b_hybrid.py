"""VideoMAE V2 ViT-B, dual masking, pretrained on the unlabelled hybrid for 200 epochs (arXiv:2303.16727).

Numbers: the released script, cited in the ``_base_`` files. Learning rate 1e-3 per 256 videos, 1024 a step, each in
         four crops with masks of their own (4096 samples; 800 epochs as the paper counts).
Run: bash tools/dist_train.sh configs/videomae/v2_vit-b_hybrid.py 8
Hardware of the release: 32 GPUs.
Expect: nothing published without distillation.
     Ours: not yet run.
"""

_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/models/videomae_v2_vit-base.py',
    '../_base_/datasets/videomae_v2_hybrid.py',
    '../_base_/schedules/videomae_800e.py',
]

train_dataloader = dict(batch_sampler=dict(global_batch_size=4096))
optim_wrapper = dict(optimizer=dict(lr=4e-3))
param_scheduler = dict(warmup_epochs=20, end_lr=4e-5)
train_cfg = dict(max_epochs=200)
