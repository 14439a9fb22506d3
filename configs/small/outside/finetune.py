"""Fine-tuning on CIFAR-10 at its own size, without augmentation, from ``steps-*.py`` or from scratch.

Run: python tools/train.py configs/small/outside/finetune.py --cfg-options model.init_cfg.checkpoint=CHECKPOINT
Expect: docs/evidence_details.md, outside; chance is 10 %.
"""

_base_ = ['../transfer/finetune_images.py']

model = dict(backbone=dict(patch_size=(1, 4, 4), clip_size=(1, 32, 32)))  # of steps-1000.py
train_dataloader = dict(dataset=dict(sources=dict(images=dict(transforms=[]))))
val_dataloader = dict(dataset=dict(sources=dict(images=dict(transforms=[]))))
test_dataloader = dict(dataset=dict(sources=dict(images=dict(transforms=[]))))
