"""Classify your own images alone. ``finetune.py`` has everything else.

Run: OMNIMAE_LABELLED=my/data python tools/train.py configs/custom/finetune_images.py
Expect: depends on the data. Not yet run on a GPU.
"""

_base_ = ['finetune.py']

train = _base_.train_dataloader.dataset.sources.images
val = _base_.val_dataloader.dataset.sources.images
test = _base_.test_dataloader.dataset.sources.images
train_dataloader = dict(dataset=dict(sources=dict(_delete_=True, images=train)))
val_dataloader = dict(dataset=dict(sources=dict(_delete_=True, images=val)))
test_dataloader = dict(dataset=dict(sources=dict(_delete_=True, images=test)))
