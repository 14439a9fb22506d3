"""ImageNet-1K for fine-tuning MAE: as ``finetune_in1k.py``, erased to noise.

Tested by resizing the short side to 256 and cutting the middle: the released code (github.com/facebookresearch/mae).
"""

_base_ = './finetune_in1k.py'

erasing = dict(_delete_=True, type='RandomErasing', fill='noise', prob=0.25)
middle = [dict(type='ResizeShort', size=256, interpolation='bicubic'), dict(type='CenterCrop', size=224)]
val_dataloader = dict(dataset=dict(sources=dict(images=dict(transforms=middle))))
test_dataloader = val_dataloader
