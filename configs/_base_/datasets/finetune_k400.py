"""Kinetics-400, 400 classes, as ``python tools/prepare_dataset.py k400 --root data/kinetics400`` leaves it.

Clips of 2 seconds, flip, two replicas of each decoded video, RandAugment with 2 layers of magnitude 9, no erasing.
Source: paper (arXiv:2206.08356), Table 5.
"""

_base_ = './finetune_videos.py'

root = '{{$OMNIMAE_DATA:data}}/kinetics400'
classifier = dict(num_classes=400, data_preprocessor=dict(erasing=None))

rows = dict(root=root, clip_seconds=2.0, classes=f'{root}/classes.txt')
transforms = [
    dict(type='RandomResizedCrop', size=_base_.size, scale=(0.08, 1.0), interpolation='bicubic'),
    dict(type='Flip', prob=0.5),
    dict(type='RandAugment', policy='pytorchvideo', magnitude=9, num_layers=2),
]
train = dict(rows, ann_file=f'{root}/kinetics400_train_list_videos.txt', replicas=2, transforms=transforms)
val = dict(rows, ann_file=f'{root}/kinetics400_val_list_videos.txt')
train_dataloader = dict(dataset=dict(sources=dict(videos=train)))
val_dataloader = dict(dataset=dict(sources=dict(videos=val)))
test_dataloader = dict(dataset=dict(sources=dict(videos=val)))
