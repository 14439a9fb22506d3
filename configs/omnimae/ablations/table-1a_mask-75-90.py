"""Table 1a, mask ratios: 75 % of the image tokens, 90 % of the video tokens (the base).

Record: ablation_base.py. Run: bash tools/dist_train.sh configs/omnimae/ablations/table-1a_mask-75-90.py 8
Expect: not yet run.
"""

_base_ = './ablation_base.py'
