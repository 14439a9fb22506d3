"""Figure 5 in small: 1 crop and mask of each decoded video; as many updates.

Run: python tools/train.py configs/small/figure5/video-replicas-1.py
Expect: docs/evidence_details.md, figure5_videos.
"""

_base_ = ['../pretrain/joint.py']

train_dataloader = dict(dataset=dict(sources=dict(videos=dict(replicas=1))), sampler=dict(repeats=dict(videos=1.0)))
