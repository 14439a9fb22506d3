"""Figure 5c, IN1K : SSv2 = 2 : 1.

The recipe with the images of an epoch twice, so with more updates: the epochs stay.

Record: ablation_base.py. Run: bash tools/dist_train.sh configs/omnimae/ablations/figure-5c_ratio-2-1.py 8
Expect: not yet run.
"""

_base_ = './ablation_base.py'

train_dataloader = dict(sampler=dict(repeats=dict(in1k=2.0)))
