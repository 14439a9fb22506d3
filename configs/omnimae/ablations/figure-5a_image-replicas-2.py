"""Figure 5a, accuracy by sample replication: 2 crops and masks of each decoded image.

Videos keep their 4 replicas. Batch and updates are those of every cell. An epoch takes 1/2 of the images.

Record: ablation_base.py. Run: bash tools/dist_train.sh configs/omnimae/ablations/figure-5a_image-replicas-2.py 8
Expect: not yet run.
"""

_base_ = './ablation_base.py'

train_dataloader = dict(
    dataset=dict(sources=dict(in1k=dict(replicas=2))),
    sampler=dict(repeats=dict(in1k=0.5)),
)
