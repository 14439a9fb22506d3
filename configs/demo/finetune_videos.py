"""Classify the demo's videos by camera motion (eight classes), from pretraining or from scratch.

Every photograph appears in every motion, so a single frame says nothing. Chance is 12.5 %.

Run: python tools/train.py configs/demo/finetune_videos.py --cfg-options model.init_cfg.checkpoint=CHECKPOINT
     python tools/train.py configs/demo/finetune_videos.py --cfg-options model.init_cfg=None          (from scratch)
Expect: seeds 0, 1, 2: 70.6 ± 2.3 % pretrained, 66.2 ± 1.0 % from scratch; at ``lr=2e-3`` 72.2 ± 1.9 % pretrained
(``benchmarks/demo_transfer.py``).
"""

_base_ = ['_base_/finetune.py']

model = dict(num_classes=24)
train_videos = dict(
    _base_.train_dataloader.dataset.sources.videos,
    ann_file=f'{_base_.data_root}/videos/few.txt',
    replicas=2,
    num_classes=24,
)
val_videos = dict(_base_.val_dataloader.dataset.sources.videos, num_classes=24)
train_dataloader = dict(dataset=dict(sources=dict(_delete_=True, videos=train_videos)))
val_dataloader = dict(dataset=dict(sources=dict(_delete_=True, videos=val_videos)))
test_dataloader = dict(_base_.val_dataloader, dataset=dict(type='MixedDataset', sources=dict(videos=val_videos)))
train_cfg = dict(max_epochs=12, val_interval=12)
default_hooks = dict(checkpoint=dict(interval=12))
