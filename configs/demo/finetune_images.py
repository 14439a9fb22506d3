"""Classify the demo's images by photograph, on parts of the twelve photographs never seen in training.

The backbone is that of ``finetune_videos.py``, with an image as a clip of one frame. Chance is 8.3 %.

Run: python tools/train.py configs/demo/finetune_images.py --cfg-options model.init_cfg.checkpoint=CHECKPOINT
     python tools/train.py configs/demo/finetune_images.py --cfg-options model.init_cfg=None          (from scratch)
Expect: seeds 0, 1, 2: 74.5 ± 4.1 % pretrained, 76.7 ± 0.3 % from scratch; at ``lr=2e-3`` 75.6 ± 4.1 and 77.7 ± 1.7 %
(``benchmarks/demo_transfer.py``; its note explains why pretraining does not win here).
"""

_base_ = ['_base_/finetune.py']

model = dict(num_classes=24)
train_images = dict(_base_.train_dataloader.dataset.sources.images, ann_file=f'{_base_.data_root}/images/few.txt')
val_images = _base_.val_dataloader.dataset.sources.images
train_dataloader = dict(dataset=dict(sources=dict(_delete_=True, images=train_images)))
val_dataloader = dict(dataset=dict(sources=dict(_delete_=True, images=val_images)))
test_dataloader = dict(_base_.val_dataloader, dataset=dict(type='MixedDataset', sources=dict(images=val_images)))
