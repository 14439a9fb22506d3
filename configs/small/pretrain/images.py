"""MAE in small, ``joint.py`` on images alone, for as many steps.

Run: python tools/train.py configs/small/pretrain/images.py
Expect: docs/evidence_details.md, figure2.
"""

_base_ = ['joint.py']

train_dataloader = dict(
    dataset=dict(sources=dict(_delete_=True, images=_base_.images.train)),
    sampler=dict(repeats=dict(_delete_=True, images=0.8)),
)
val_dataloader = dict(dataset=dict(sources=dict(_delete_=True, images=_base_.images.val)))
