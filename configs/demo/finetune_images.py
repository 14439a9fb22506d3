"""Tell the twelve photographs of the demo's images apart, by crops of parts never seen in training.

The backbone is the one of ``finetune_videos.py``: an image is a clip of one frame. Chance is 8.3 %.

Run: python tools/train.py configs/demo/finetune_images.py --cfg-options model.init_cfg.checkpoint=CHECKPOINT
     python tools/train.py configs/demo/finetune_images.py --cfg-options model.init_cfg=None          (from scratch)
Expect: TODO
"""

_base_ = ['_base_/finetune.py']

model = dict(num_classes=12)
train_images = _base_.train_dataloader.dataset.sources.images
val_images = _base_.val_dataloader.dataset.sources.images
train_dataloader = dict(dataset=dict(sources=dict(_delete_=True, images=train_images)))
val_dataloader = dict(dataset=dict(sources=dict(_delete_=True, images=val_images)))
test_dataloader = dict(_base_.val_dataloader, dataset=dict(type='MixedDataset', sources=dict(images=val_images)))
