"""Kinetics-400 for fine-tuning MAE-ST, as ``python tools/prepare_dataset.py k400 --root data/kinetics400`` leaves it.

As ``videomae_finetune_k400.py`` but for a RandAugment of two layers and 7 clips x 3 crops in testing: SlowFast's
configs/masked_ssl.
"""

_base_ = './videomae_finetune_k400.py'

augment = _base_.train.transforms
train = dict(sampling='resampled', transforms=[dict(augment[0], num_layers=2), *augment[1:]])
train_dataloader = dict(dataset=dict(sources=dict(videos=train)))
val_dataloader = dict(dataset=dict(sources=dict(videos=dict(sampling='resampled'))))
test_dataloader = dict(dataset=dict(sources=dict(videos=dict(sampling='resampled', num_clips=7))))
