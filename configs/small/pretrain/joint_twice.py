"""OmniMAE in small, ``joint.py`` with 1000 steps an epoch, as many of each modality as the models of one have.

The paper trains so. Its joint model sees as much of either modality as the models of one do, and takes as many steps as
     both.

Run: python tools/train.py configs/small/pretrain/joint_twice.py
Expect: docs/evidence_details.md, figure2.
"""

_base_ = ['joint.py']

train_dataloader = dict(sampler=dict(repeats=dict(images=0.8, videos=0.5)))
