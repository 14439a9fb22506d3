"""Mask sampling: 75 % of the tokens, in cuboids of space and time (block-wise).

The paper does not state the size of the blocks. 2x4x4 to 4x8x8 tokens are our choice.

Record: ../vit-l_k400.py. Run: bash tools/dist_train.sh configs/mae_st/ablations/mask_block-75.py 8
Expect: top-1 of 83.2 on K400 after fine-tuning (the paper's table, from memory). Ours: not yet run.
"""

_base_ = '../vit-l_k400.py'

model = dict(mask_generator=dict(video=dict(type='BlockMasking', ratio=0.75)))
