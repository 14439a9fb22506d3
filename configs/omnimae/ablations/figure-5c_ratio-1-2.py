"""Figure 5c, IN1K : SSv2 = 1 : 2.

The recipe with the videos of an epoch twice, so with more updates: the epochs stay.

Record: ablation_base.py. Run: bash tools/dist_train.sh configs/omnimae/ablations/figure-5c_ratio-1-2.py 8
Expect: not yet run.
"""

_base_ = './ablation_base.py'

train_dataloader = dict(sampler=dict(repeats=dict(ssv2=0.5)))
