"""Figure 5 in small: 2 crops and masks of each decoded image; as many updates.

Run: python tools/train.py configs/small/figure5/image-replicas-2.py
Expect: docs/evidence_details.md, figure5_images. Not yet run.
"""

_base_ = ['../pretrain/joint.py']

train_dataloader = dict(dataset=dict(sources=dict(images=dict(replicas=2))), sampler=dict(repeats=dict(images=0.2)))
