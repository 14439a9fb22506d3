"""Classify the demo's images by place, 24 corners of photographs, with 8 labels each.

The backbone is that of ``finetune_videos.py``, with an image as a clip of one frame. Training takes 144 steps.
Chance is 4.2 %.

Run: python tools/train.py configs/demo/finetune_images.py --cfg-options model.init_cfg.checkpoint=CHECKPOINT
     python tools/train.py configs/demo/finetune_images.py --cfg-options model.init_cfg=None          (from scratch)
Expect: seeds 0, 1, 2: 80.4 ± 1.0 % pretrained, 55.1 ± 7.3 % from scratch (``benchmarks/demo_transfer.py``).
"""

_base_ = ['_base_/finetune.py']

model = dict(num_classes=24)
train_images = dict(_base_.train_dataloader.dataset.sources.images, ann_file=f'{_base_.data_root}/images/few.txt')
val_images = _base_.val_dataloader.dataset.sources.images
train_dataloader = dict(dataset=dict(sources=dict(_delete_=True, images=train_images)))
val_dataloader = dict(dataset=dict(sources=dict(_delete_=True, images=val_images)))
test_dataloader = dict(_base_.val_dataloader, dataset=dict(type='MixedDataset', sources=dict(images=val_images)))
