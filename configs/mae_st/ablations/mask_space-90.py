"""Mask sampling: 90 % of the places, the same ones in every time slice (space-only).

152 of 1568 tokens are visible, 19 of 196 places. SlowFast keeps 156, so the last tube is cut.

Record: ../vit-l_k400.py. Run: bash tools/dist_train.sh configs/mae_st/ablations/mask_space-90.py 8
Expect: top-1 of 83.5 on K400 after fine-tuning (the paper's table, from memory). Ours: not yet run.
"""

_base_ = '../vit-l_k400.py'

model = dict(mask_generator=dict(video=dict(type='TubeMasking')))
