"""NYUv2, 40 classes, at 640x640. A config selects the ``modalities``. There are 795 images to train and 654 to test.

As ``tools/prepare_nyuv2.py`` of MultiMAE's release writes it, with the masks added:

    nyuv2/train/rgb/data/0001.png         RGB
    nyuv2/train/depth/data/0001.png       depth in 16 bits, in any unit
    nyuv2/train/mask_valid/data/0001.png  255 where the depth is known (without: valid=None)
    nyuv2/train/semseg/data/0001.png      classes from 1 to 40, 0 for none
    nyuv2/test/...                        the same
"""

_base_ = './segmentation.py'

size = 640  # pixels of a crop
root = '{{$OMNIMAE_DATA:data}}/nyuv2'
task = dict(type='SegmentationTask', num_classes=40)
modalities = dict(
    rgb=dict(kind='rgb'), depth=dict(valid='mask_valid'), semseg=dict(kind='classes', reduce_zero_label=True)
)
augmentation = [
    *_base_.flip_and_colours,
    dict(type='LargeScaleJitter', size=size, scale=(0.1, 2.0)),
    dict(type='RandomCrop', size=size),
]

train_dataloader = dict(
    batch_size=2,
    dataset=dict(sources=dict(images=dict(root=f'{root}/train', transforms=augmentation))),
    batch_sampler=dict(global_batch_size=8),
)
val_dataloader = dict(
    batch_size=2,
    dataset=dict(sources=dict(images=dict(root=f'{root}/test', transforms=[dict(type='ResizeLong', size=size)]))),
)
test_dataloader = val_dataloader
