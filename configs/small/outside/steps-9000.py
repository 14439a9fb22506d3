"""MAE in small on CIFAR-10: ``steps-1000.py`` for 9000 steps.

Run: python tools/train.py configs/small/outside/steps-9000.py
Expect: docs/evidence_details.md, outside.
"""

_base_ = ['steps-1000.py']

train_cfg = dict(max_epochs=18, val_interval=18)
