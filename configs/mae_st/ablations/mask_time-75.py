"""Mask sampling: 75 % of the time slices, with all of their tokens (time-only).

Record: ../vit-l_k400.py. Run: bash tools/dist_train.sh configs/mae_st/ablations/mask_time-75.py 8
Expect: top-1 of 79.1 on K400 after fine-tuning (the paper's table, from memory). Ours: not yet run.
"""

_base_ = '../vit-l_k400.py'

# 6 of 8 slices, whatever is rounded down
model = dict(mask_generator=dict(video=dict(type='FrameMasking', ratio=0.75, round_down='hidden')))
