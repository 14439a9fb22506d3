"""OmniMAE ViT-B from scratch on your own images alone. ``pretrain.py`` has all else: formats, batch, how long.

Run: OMNIMAE_IMAGES=my/photos python tools/train.py configs/custom/pretrain_images.py
To add videos later, load the export of this run with ``pretrain_from_released.py``.
Expect: depends on the data. Not yet run on a GPU.
"""

_base_ = './pretrain.py'

train = _base_.train_dataloader.dataset.sources.images
val = _base_.val_dataloader.dataset.sources.images
train_dataloader = dict(
    dataset=dict(sources=dict(_delete_=True, images=train)), sampler=dict(repeats=dict(_delete_=True, images=1.0))
)
val_dataloader = dict(dataset=dict(sources=dict(_delete_=True, images=val)))
