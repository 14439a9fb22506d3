"""Linear probe on the demo's images with all their labels, the backbone frozen.

Run: python tools/train.py configs/demo/linear_images.py --cfg-options model.init_cfg.checkpoint=CHECKPOINT
Expect: 90.3 %, one seed of ``pretrain.py``. Chance is 4.2 %.
"""

_base_ = ['_base_/frozen.py']

model = dict(num_classes=24)
train_images = dict(_base_.train_dataloader.dataset.sources.images, num_classes=24)
val_images = dict(_base_.val_dataloader.dataset.sources.images, num_classes=24)
train_dataloader = dict(dataset=dict(sources=dict(_delete_=True, images=train_images)))
val_dataloader = dict(dataset=dict(sources=dict(_delete_=True, images=val_images)))
test_dataloader = dict(_base_.val_dataloader, dataset=dict(type='MixedDataset', sources=dict(images=val_images)))
