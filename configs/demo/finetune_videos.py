"""Classify the demo's videos by place, 24 corners of photographs, with 8 labels each.

The camera moves, in one of eight ways. Each video gives two crops of its clip. Training takes 144 steps. Chance is
4.2 %.

Run: python tools/train.py configs/demo/finetune_videos.py --cfg-options model.init_cfg.checkpoint=CHECKPOINT
     python tools/train.py configs/demo/finetune_videos.py --cfg-options model.init_cfg=None          (from scratch)
Expect: seeds 0, 1, 2: 55.0 ± 4.0 % pretrained, 38.0 ± 2.6 % from scratch (``benchmarks/demo_transfer.py``).
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
train_cfg = dict(max_epochs=6, val_interval=6)
default_hooks = dict(checkpoint=dict(interval=6))
