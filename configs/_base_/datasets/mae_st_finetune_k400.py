"""Kinetics-400 for fine-tuning MAE-ST, as ``python tools/prepare_dataset.py k400 --root data/kinetics400`` leaves it.

As ``videomae_finetune_k400.py``, with these differences of SlowFast's configs/masked_ssl. Strides count frames at 30 a
second. RandAugment has two layers. Tests take 7 clips x 3 crops, of which the middle one rounds half a pixel up.

Different in SlowFast: it decodes to a short side of 256 before it augments, and validates on random crops of random
     clips.
"""

_base_ = './videomae_finetune_k400.py'

augment = _base_.train.transforms
train = dict(sampling='resampled', transforms=[dict(augment[0], num_layers=2), *augment[1:]])
train_dataloader = dict(dataset=dict(sources=dict(videos=train)))
val_dataloader = dict(dataset=dict(sources=dict(videos=dict(sampling='resampled'))))
views = [dict(type='ResizeShort', size=224, interpolation='bilinear'), dict(type='ThreeCrop', size=224)]
test = dict(sampling='resampled', num_clips=7, transforms=views)
test_dataloader = dict(dataset=dict(sources=dict(videos=test)))
