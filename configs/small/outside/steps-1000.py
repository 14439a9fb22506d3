"""MAE in small on CIFAR-10 at its own size, 1000 steps of 16: images of 32x32 pixels, 64 tokens, 75 % hidden.

No augmentation, as in github.com/IcarusWizard/MAE; recipe and head are those of ``pretrain/joint.py``.

Run: python tools/train.py configs/small/outside/steps-1000.py
Expect: docs/evidence_details.md, outside.
"""

_base_ = ['../pretrain/images.py']

model = dict(backbone=dict(patch_size=(1, 4, 4), clip_size=(1, 32, 32)))
train_dataloader = dict(dataset=dict(sources=dict(images=dict(transforms=[]))))
val_dataloader = dict(dataset=dict(sources=dict(images=dict(transforms=[]))))
train_cfg = dict(max_epochs=2, val_interval=2)
