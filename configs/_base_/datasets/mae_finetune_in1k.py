"""ImageNet-1K for fine-tuning MAE, as ``finetune_in1k.py``, but erased to noise and without EMA.

RandAugment is bicubic and fills with the mean colour. Erasing takes 2 to 33.3 % of the image (timm 0.3.2, of the
released code, github.com/facebookresearch/mae). Tests resize the short side to 256 and take the centre crop.
"""

_base_ = './finetune_in1k.py'

classifier = dict(data_preprocessor=dict(erasing=dict(_delete_=True, type='RandomErasing', fill='noise', prob=0.25)))
crop, flip, augment = _base_.train_dataloader.dataset.sources.images.transforms
augment = dict(augment, interpolation='bicubic', fill=(124, 116, 104))
train_dataloader = dict(dataset=dict(sources=dict(images=dict(transforms=[crop, flip, augment]))))
middle = [dict(type='ResizeShort', size=256, interpolation='bicubic'), dict(type='CenterCrop', size=_base_.size)]
val_dataloader = dict(dataset=dict(sources=dict(images=dict(transforms=middle))))
test_dataloader = val_dataloader
custom_hooks = []  # no EMA of weights
