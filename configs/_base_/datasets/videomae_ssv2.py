"""SSv2 videos alone, as ``videomae_k400.py``, with every second of their 12 frames a second.

Expected files: those of SSv2 in ``in1k_ssv2.py``.
"""

_base_ = './videomae_k400.py'

sthv2 = dict(
    root=f'{_base_.data_root}/sthv2/videos',
    allow_outside=True,  # prepare_dataset.py --short-side writes ../videos_SIZE/NAME.mp4
    stride=2,
)
lists = f'{_base_.data_root}/sthv2/sthv2'
train, val = (loader.dataset.sources.k400 for loader in (_base_.train_dataloader, _base_.val_dataloader))
train_dataloader = dict(
    dataset=dict(sources=dict(_delete_=True, ssv2=dict(train, ann_file=f'{lists}_train_list_videos.txt', **sthv2)))
)
val_dataloader = dict(
    dataset=dict(sources=dict(_delete_=True, ssv2=dict(val, ann_file=f'{lists}_val_list_videos.txt', **sthv2)))
)
