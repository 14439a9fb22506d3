"""Linear probe on the demo's camera motions, ``finetune_videos.py`` with a frozen backbone.

Run: python tools/train.py configs/demo/linear_videos.py --cfg-options model.init_cfg.checkpoint=CHECKPOINT
Expect: 45.5 % (chance 12.5 %), from epoch 20 of ``pretrain.py`` with seed 0. 40.3 % at a learning rate of 15.
"""

_base_ = ['_base_/frozen.py']

model = dict(num_classes=24)
train_videos = dict(_base_.train_dataloader.dataset.sources.videos, num_classes=24)
val_videos = dict(_base_.val_dataloader.dataset.sources.videos, num_classes=24)
train_dataloader = dict(dataset=dict(sources=dict(_delete_=True, videos=train_videos)))
val_dataloader = dict(dataset=dict(sources=dict(_delete_=True, videos=val_videos)))
test_dataloader = dict(_base_.val_dataloader, dataset=dict(type='MixedDataset', sources=dict(videos=val_videos)))
