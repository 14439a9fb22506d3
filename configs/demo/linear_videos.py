"""Linear probe on the demo's videos with all their labels, the backbone frozen.

Run: python tools/train.py configs/demo/linear_videos.py --cfg-options model.init_cfg.checkpoint=CHECKPOINT
Expect: 65.6 %, one seed of ``pretrain.py``. Chance is 4.2 %.
"""

_base_ = ['_base_/frozen.py']

model = dict(num_classes=24)
train_videos = dict(_base_.train_dataloader.dataset.sources.videos, num_classes=24)
val_videos = dict(_base_.val_dataloader.dataset.sources.videos, num_classes=24)
train_dataloader = dict(dataset=dict(sources=dict(_delete_=True, videos=train_videos)))
val_dataloader = dict(dataset=dict(sources=dict(_delete_=True, videos=val_videos)))
test_dataloader = dict(_base_.val_dataloader, dataset=dict(type='MixedDataset', sources=dict(videos=val_videos)))
