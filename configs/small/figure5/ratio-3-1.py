"""Figure 5 in small: 3 steps of images for 1 of videos; an epoch has 500 still.

Run: python tools/train.py configs/small/figure5/ratio-3-1.py
Expect: one seed decided nothing (docs/evidence_details.md).
"""

_base_ = ['../pretrain/joint.py']

train_dataloader = dict(sampler=dict(repeats=dict(images=0.6, videos=0.125)))
