"""Mask sampling: 90 % of the tokens, anywhere in space and time (the recipe).

Record: ../vit-l_k400.py. Run: bash tools/dist_train.sh configs/mae_st/ablations/mask_agnostic-90.py 8
Expect: top-1 of 84.4 on K400 after fine-tuning (the paper's table, from memory). Ours: not yet run.
"""

_base_ = '../vit-l_k400.py'
