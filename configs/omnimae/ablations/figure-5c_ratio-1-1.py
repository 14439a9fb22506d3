"""Figure 5c, IN1K : SSv2 = 1 : 1 (the base).

The recipe: all images, and as many clips as there are videos.

Record: ablation_base.py. Run: bash tools/dist_train.sh configs/omnimae/ablations/figure-5c_ratio-1-1.py 8
Expect: not yet run.
"""

_base_ = './ablation_base.py'
