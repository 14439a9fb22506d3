"""Classify your own videos alone. ``finetune.py`` has everything else.

Run: OMNIMAE_LABELLED=my/data python tools/train.py configs/custom/finetune_videos.py
Expect: depends on the data. Not yet run on a GPU.
"""

_base_ = ['finetune.py']

train = _base_.train_dataloader.dataset.sources.videos
val = _base_.val_dataloader.dataset.sources.videos
test = _base_.test_dataloader.dataset.sources.videos
train_dataloader = dict(dataset=dict(sources=dict(_delete_=True, videos=train)))
val_dataloader = dict(dataset=dict(sources=dict(_delete_=True, videos=val)))
test_dataloader = dict(dataset=dict(sources=dict(_delete_=True, videos=test)))
