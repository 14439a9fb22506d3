"""Figure 5 in small: 1 step of images for 2 of videos; an epoch has 500 still.

Run: python tools/train.py configs/small/figure5/ratio-1-2.py
Expect: docs/evidence_details.md, figure5. Not yet run.
"""

_base_ = ['../pretrain/joint.py']

train_dataloader = dict(sampler=dict(repeats=dict(images=0.264, videos=0.335)))
