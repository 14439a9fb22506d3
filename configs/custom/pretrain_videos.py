"""OmniMAE ViT-B from scratch on your own videos alone. ``pretrain.py`` has all else: formats, batch, how long.

Each video is cropped and masked four times, so the batch size of 256 takes 64 videos.
Run: OMNIMAE_VIDEOS=my/clips python tools/train.py configs/custom/pretrain_videos.py
Expect: depends on the data. Not yet run on a GPU.
"""

_base_ = './pretrain.py'

train = _base_.train_dataloader.dataset.sources.videos
val = _base_.val_dataloader.dataset.sources.videos
train_dataloader = dict(
    dataset=dict(sources=dict(_delete_=True, videos=train)), sampler=dict(repeats=dict(_delete_=True, videos=1.0))
)
val_dataloader = dict(dataset=dict(sources=dict(_delete_=True, videos=val)))
