"""Figure 5a, sample replication: 8 crops and masks of each decoded video.

Assumed: only videos are replicated, and an epoch takes 1/8 of the videos, so that every cell trains on as many clips.

Record: ablation_base.py. Run: bash tools/dist_train.sh configs/omnimae/ablations/figure-5a_replicas-8.py 8
Expect: not yet run.
"""

_base_ = './ablation_base.py'

train_dataloader = dict(
    dataset=dict(sources=dict(ssv2=dict(replicas=8))),
    sampler=dict(repeats=dict(ssv2=1 / 8)),
)
