"""Figure 5 in small: 1 step of images for 3 of videos; an epoch has 500 still.

Run: python tools/train.py configs/small/figure5/ratio-1-3.py
Expect: one seed decided nothing (docs/evidence_details.md).
"""

_base_ = ['../pretrain/joint.py']

train_dataloader = dict(sampler=dict(repeats=dict(images=0.2, videos=0.375)))
