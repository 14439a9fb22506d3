"""Figure 5a, accuracy by sample replication: 1 crop and mask of each decoded video.

Images have 1 replica. Batch and updates are those of every cell. An epoch takes all videos but a step.

Record: ablation_base.py. Run: bash tools/dist_train.sh configs/omnimae/ablations/figure-5a_video-replicas-1.py 8
Expect: not yet run.
"""

_base_ = './ablation_base.py'

train_dataloader = dict(
    dataset=dict(sources=dict(ssv2=dict(replicas=1))),
    sampler=dict(repeats=dict(ssv2=0.99)),  # 82 steps, as the base
)
