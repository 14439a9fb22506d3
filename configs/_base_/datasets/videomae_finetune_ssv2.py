"""SSv2 for fine-tuning VideoMAE, as ``python tools/prepare_dataset.py ssv2 --root data/sthv2`` leaves it.

Clips are sparse, with one frame in each of 16 segments of the video. It is a random one in training and the middle one
in validation (in VideoMAE's first version a random one too). Tests take 2 clips, whose frames interleave, x 3 crops.
There is no flip, since it would turn "from left to right" into another class. Everything else is as in
``videomae_finetune_k400.py``.
"""

_base_ = './finetune_videos.py'

root = '{{$OMNIMAE_DATA:data}}/sthv2'
classifier = dict(num_classes=174, head_init_std=2e-5)

rows = dict(
    root=f'{root}/videos',
    allow_outside=True,  # prepare_dataset.py --short-side writes ../videos_SIZE/NAME.mp4
    sampling='sparse',
    classes=f'{root}/classes.txt',
)
train = dict(
    rows,
    ann_file=f'{root}/sthv2_train_list_videos.txt',
    replicas=2,
    transforms=[
        dict(type='RandAugment', policy='timm', magnitude=7, num_layers=4, interpolation='bicubic'),
        dict(type='RandomResizedCrop', size=_base_.size, scale=(0.08, 1.0)),
    ],
)
val = dict(rows, ann_file=f'{root}/sthv2_val_list_videos.txt')
train_dataloader = dict(dataset=dict(sources=dict(videos=train)))
val_dataloader = dict(dataset=dict(sources=dict(videos=val)))
views = [
    dict(type='ResizeShort', size=224, interpolation='bilinear'),
    dict(type='ThreeCrop', size=224, round_down=True),
]
test_dataloader = dict(dataset=dict(sources=dict(videos=dict(val, num_clips=2, transforms=views))))
val_evaluator = dict(softmax=True)
test_evaluator = val_evaluator
