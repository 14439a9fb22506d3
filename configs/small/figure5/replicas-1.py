"""Figure 5 in small: 1 crop and mask of each decoded video, as many clips.

Run: python tools/train.py configs/small/figure5/replicas-1.py
Expect: docs/evidence.md, figure5.
"""

_base_ = ['../pretrain/joint.py']

train_dataloader = dict(dataset=dict(sources=dict(videos=dict(replicas=1))), sampler=dict(repeats=dict(videos=1.0)))
