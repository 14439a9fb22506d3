"""Kinetics-400 for fine-tuning VideoMAE, as ``python tools/prepare_dataset.py k400 --root data/kinetics400`` leaves it.

The source is the released code (github.com/MCG-NJU/VideoMAE and, with the same numbers,
github.com/OpenGVLab/VideoMAEv2). 16 frames are spread over 64, whatever the frame rate, in two replicas of each decoded
video. RandAugment (m7, 4 layers, mstd 0.5, increasing, bicubic) takes the whole frame. Then come a bilinear crop
without antialiasing, flip and erasing to noise. Tests take 5 clips x 3 crops of every fourth frame, from the first to
the last, and average their softmax. Validation takes the centre crop of the middle clip, as V2 (VideoMAE validates on a
random clip).

Different here: CutMix of V2 (timm 0.4.12, made for images) takes a box of frames and rows for one of rows and columns.
Ours cuts in space, as VideoMAE's.
"""

_base_ = './finetune_videos.py'

root = '{{$OMNIMAE_DATA:data}}/kinetics400'
classifier = dict(num_classes=400, head_init_std=2e-5)

rows = dict(root=root, sampling='spread', stride=4, classes=f'{root}/classes.txt')
train = dict(
    rows,
    ann_file=f'{root}/kinetics400_train_list_videos.txt',
    replicas=2,
    transforms=[
        dict(type='RandAugment', policy='timm', magnitude=7, num_layers=4, interpolation='bicubic'),
        dict(type='RandomResizedCrop', size=_base_.size, scale=(0.08, 1.0)),
        dict(type='Flip', prob=0.5),
    ],
)
val = dict(rows, ann_file=f'{root}/kinetics400_val_list_videos.txt')
train_dataloader = dict(dataset=dict(sources=dict(videos=train)))
val_dataloader = dict(dataset=dict(sources=dict(videos=val)))
views = [
    dict(type='ResizeShort', size=224, interpolation='bilinear'),
    dict(type='ThreeCrop', size=224, round_down=True),
]
test_dataloader = dict(dataset=dict(sources=dict(videos=dict(val, transforms=views))))
val_evaluator = dict(softmax=True)
test_evaluator = val_evaluator
