"""MAE-ST ViT-B, pretrained on K400 for 200 epochs of four clips a video (arXiv:2205.09113).

Numbers: the config of the released weights (SlowFast's k400_VIT_B_16x4_MAE_PT), cited in the ``_base_`` files. Learning
         rate 1e-4 per 64 videos, here for 512 a step, each in four clips with masks of their own (2048 samples).
Run: bash tools/dist_train.sh configs/mae_st/vit-b_k400.py 8
     (global batch 2048 = 32 per GPU x 8 GPUs x 8 accumulated micro-batches)
Expect: top-1 of 81.3 on K400 after fine-tuning, 7x3 views (released).
     Ours: not yet run.
"""

_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/models/mae_st_vit-base.py',
    '../_base_/datasets/mae_st_k400.py',
    '../_base_/schedules/mae_st_200e.py',
]

optim_wrapper = dict(optimizer=dict(lr=8e-4))
param_scheduler = dict(warmup_epochs=60, start_lr=8e-6, end_lr=8e-6)
