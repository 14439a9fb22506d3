"""Figure 5 in small: 2 crops and masks of each decoded video; as many updates.

Run: python tools/train.py configs/small/figure5/video-replicas-2.py
Expect: docs/evidence_details.md, figure5_videos. Not yet run.
"""

_base_ = ['../pretrain/joint.py']

train_dataloader = dict(dataset=dict(sources=dict(videos=dict(replicas=2))), sampler=dict(repeats=dict(videos=0.5)))
