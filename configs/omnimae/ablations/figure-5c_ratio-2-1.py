"""Figure 5c, IN1K : SSv2 = 2 : 1.

Assumed: 1 : 1 is the recipe (all images, as many clips as videos), a ratio multiplies one of the two, and the
number of epochs stays, so these cells train for more steps than the base.

Record: ablation_base.py. Run: bash tools/dist_train.sh configs/omnimae/ablations/figure-5c_ratio-2-1.py 8
Expect: not yet run.
"""

_base_ = './ablation_base.py'

train_dataloader = dict(sampler=dict(repeats=dict(in1k=2.0)))
