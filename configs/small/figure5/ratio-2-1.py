"""Figure 5 in small: 2 steps of images for 1 of videos; an epoch has 500 still.

Run: python tools/train.py configs/small/figure5/ratio-2-1.py
Expect: docs/evidence_details.md, figure5. Not yet run.
"""

_base_ = ['../pretrain/joint.py']

train_dataloader = dict(sampler=dict(repeats=dict(images=0.536, videos=0.165)))
