"""Figure 5a, sample replication: 1 crop and mask of each decoded video.

Assumed: only videos are replicated, and every cell trains on as many clips; so an epoch takes all videos once.

Record: ablation_base.py. Run: bash tools/dist_train.sh configs/omnimae/ablations/figure-5a_replicas-1.py 8
Expect: not yet run.
"""

_base_ = './ablation_base.py'

train_dataloader = dict(
    dataset=dict(sources=dict(ssv2=dict(replicas=1))),
    sampler=dict(repeats=dict(ssv2=1.0)),
)
