"""Figure 5a, accuracy by sample replication: 8 crops and masks of each decoded video.

Images have 1 replica. Batch and updates are those of every cell. An epoch takes 1/8 of the videos.

Record: ablation_base.py. Run: bash tools/dist_train.sh configs/omnimae/ablations/figure-5a_video-replicas-8.py 8
Expect: not yet run.
"""

_base_ = './ablation_base.py'

train_dataloader = dict(
    dataset=dict(sources=dict(ssv2=dict(replicas=8))),
    sampler=dict(repeats=dict(ssv2=0.125)),
)
