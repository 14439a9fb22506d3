"""Table 1a, mask ratios: 75 % of the image tokens, 90 % of the video tokens (the base).

Record: ablation_base.py. Run: bash tools/dist_train.sh configs/omnimae/ablations/table-1a_mask-75-90.py 8
Expect: top-1 of 82.8 on IN1K and 67.9 on SSv2 after fine-tuning (paper). Ours: not yet run.
"""

_base_ = './ablation_base.py'
