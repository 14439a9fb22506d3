"""NYUv2, depth of every pixel from RGB, at 256x256. The folders are those of ``segmentation_nyuv2.py``.

The augmentation is that of MultiMAE's released code (arXiv:2204.01678): short side to 256, flip, colour jitter, grey in
30 %, a crop. Tests take the centre crop. Its mean and std of the depth (2070.7764 and 777.5723) seem to be in
millimetres. But its ``prepare_nyuv2.py`` stores 6553.6 units a metre. For such files multiply both by 6.5536. The
ratios of the metric do not depend on the unit.
"""

_base_ = './segmentation.py'

size = 256  # pixels of a crop
root = '{{$OMNIMAE_DATA:data}}/nyuv2'
mean, std = 2070.7764, 777.5723
checkpoint = dict(save_best='depth/delta1', rule='greater')  # for the hooks
modalities = dict(rgb=dict(kind='rgb'), depth=dict(valid='mask_valid'))
augmentation = [
    dict(type='ResizeShort', size=size),
    dict(type='Flip', prob=0.5),
    dict(type='ColorJitter', brightness=0.1255, contrast=0.4, saturation=0.5, hue=0.2, prob=0.5, grey_prob=0.3),
    dict(type='RandomCrop', size=size),
]
middle = [dict(type='ResizeShort', size=size), dict(type='CenterCrop', size=size)]

source = dict(target='depth', modalities=modalities)
train_dataloader = dict(
    batch_size=64,
    dataset=dict(sources=dict(images=dict(source, root=f'{root}/train', transforms=augmentation))),
    batch_sampler=dict(global_batch_size=128),
)
val_dataloader = dict(
    batch_size=64,
    dataset=dict(sources=dict(images=dict(source, root=f'{root}/test', transforms=middle))),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='DepthScore')
test_evaluator = val_evaluator
