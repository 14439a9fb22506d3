"""Figure 5a, accuracy by sample replication: 8 crops and masks of each decoded image.

Videos keep their 4 replicas. Batch and updates are those of every cell. An epoch takes 1/8 of the images.

Record: ablation_base.py. Run: bash tools/dist_train.sh configs/omnimae/ablations/figure-5a_image-replicas-8.py 8
Expect: not yet run.
"""

_base_ = './ablation_base.py'

train_dataloader = dict(
    dataset=dict(sources=dict(in1k=dict(replicas=8))),
    sampler=dict(repeats=dict(in1k=0.1252)),  # 626 steps, as the base
)
