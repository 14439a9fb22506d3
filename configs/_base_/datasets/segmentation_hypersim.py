"""Hypersim (https://github.com/apple/ml-hypersim), the 40 classes of NYUv2. A config selects the ``modalities``.

As MultiMAE prepares it. Files have the same names below each folder, with any sub-folders, such as a scene:

    hypersim/train/rgb/SCENE/NAME.png         RGB (or JPEG)
    hypersim/train/depth/SCENE/NAME.png       depth in 16 bits, in any unit
    hypersim/train/mask_valid/SCENE/NAME.png  255 where the depth is known (without: valid=None)
    hypersim/train/semseg/SCENE/NAME.png      classes from 1 to 40, 0 for none
    hypersim/val/...  hypersim/test/...       the same
"""

_base_ = './segmentation.py'

root = '{{$OMNIMAE_DATA:data}}/hypersim'
task = dict(type='SegmentationTask', num_classes=40)
modalities = dict(
    rgb=dict(kind='rgb'), depth=dict(valid='mask_valid'), semseg=dict(kind='classes', reduce_zero_label=True)
)

train_dataloader = dict(dataset=dict(sources=dict(images=dict(root=f'{root}/train'))))
val_dataloader = dict(dataset=dict(sources=dict(images=dict(root=f'{root}/val'))))
test_dataloader = dict(dataset=dict(sources=dict(images=dict(root=f'{root}/test'))))
