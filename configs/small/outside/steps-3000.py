"""MAE in small on CIFAR-10: ``steps-1000.py`` for 3000 steps.

Run: python tools/train.py configs/small/outside/steps-3000.py
Expect: docs/evidence_details.md, outside.
"""

_base_ = ['steps-1000.py']

train_cfg = dict(max_epochs=6, val_interval=6)
