"""How images are read for semantic segmentation. A data set's file adds their folders and classes.

The augmentation is that of MultiMAE's released code (arXiv:2204.01678): flip, colour jitter, large-scale jitter from
0.1 to 2, a crop of 512x512 with padding. Tests fit the image into 512x512 and score at that size. The release resizes
twice, here it is once. Its maps take the nearest pixel to a corner (OpenCV's rule). Ours take that to the centre, as
RGB does. Its loss is the mean over the known pixels of each GPU, then over GPUs. Ours is the mean over those of the
step.
"""

size = 512  # pixels of a crop
checkpoint = dict(save_best='segmentation/mIoU')  # for the hooks; the release tests that epoch
flip_and_colours = [
    dict(type='Flip', prob=0.5),
    dict(type='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, prob=0.5),
]
augmentation = [
    *flip_and_colours,
    dict(type='LargeScaleJitter', size=size, scale=(0.1, 2.0)),
    dict(type='RandomCrop', size=size),
]

train_dataloader = dict(
    batch_size=4,  # images per GPU and micro-batch, as in the release
    num_workers=10,
    persistent_workers=True,
    pin_memory=True,
    dataset=dict(
        type='MixedDataset',
        sources=dict(images=dict(type='AlignedDataset', target='semseg', transforms=augmentation)),
    ),
    sampler=dict(type='MixedSampler'),
    batch_sampler=dict(type='MixedBatchSampler', global_batch_size=16),
    collate_fn=dict(type='collate_clips'),
)
val_dataloader = dict(
    batch_size=4,
    num_workers=10,
    persistent_workers=True,
    pin_memory=True,
    dataset=dict(
        type='MixedDataset',
        sources=dict(
            images=dict(type='AlignedDataset', target='semseg', transforms=[dict(type='ResizeLong', size=size)])
        ),
    ),
    sampler=dict(type='EvalSampler'),
    batch_sampler=dict(type='EvalBatchSampler'),
    collate_fn=dict(type='collate_clips'),
)
val_evaluator = dict(type='SegmentationScore')
val_cfg = dict(type='ValLoop')
test_dataloader = val_dataloader
test_evaluator = val_evaluator
test_cfg = dict(type='TestLoop')
