"""MAE-ST ViT-H, pretrained on K400 for 400 epochs of four clips a video (arXiv:2205.09113).

Numbers: the config of the released weights (SlowFast's k400_VIT_H_16x4_MAE_PT), cited in the ``_base_`` files; 512
         videos a step, each in four clips with masks of their own (2048 samples; 1600 epochs as the paper counts).
Run: bash tools/dist_train.sh configs/mae_st/vit-h_k400.py 8
     (global batch 2048 = 32 per GPU x 8 GPUs x 8 accumulated micro-batches)
Hardware of the paper: 128 GPUs.
Expect: top-1 of 85.1 on K400 after fine-tuning, 7x3 views (released).
     Ours: not yet run.
"""

_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/models/mae_st_vit-base.py',
    '../_base_/datasets/mae_st_k400.py',
    '../_base_/schedules/mae_st_200e.py',
]

model = _base_.sizes.huge
param_scheduler = dict(warmup_epochs=60)
train_cfg = dict(max_epochs=400)
