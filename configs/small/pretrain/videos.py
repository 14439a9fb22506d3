"""VideoMAE in small, ``joint.py`` on videos alone, for as many steps.

Run: python tools/train.py configs/small/pretrain/videos.py
Expect: docs/evidence_details.md, figure2.
"""

_base_ = ['joint.py']

train_dataloader = dict(
    dataset=dict(sources=dict(_delete_=True, videos=dict(_base_.videos.train, replicas=4))),
    sampler=dict(repeats=dict(_delete_=True, videos=0.5)),
)
val_dataloader = dict(dataset=dict(sources=dict(_delete_=True, videos=_base_.videos.val)))
