"""Something-Something V2, 174 classes, as ``python tools/prepare_dataset.py ssv2 --root data/sthv2`` leaves it.

Clips of 2.7 seconds. There is no flip, since it would turn "from left to right" into another class.
"""

_base_ = './finetune_videos.py'

root = '{{$OMNIMAE_DATA:data}}/sthv2'
classifier = dict(num_classes=174)

# prepare_dataset.py --short-side writes ../videos_SIZE/NAME.mp4
rows = dict(root=f'{root}/videos', allow_outside=True, clip_seconds=2.7, classes=f'{root}/classes.txt')
train = dict(rows, ann_file=f'{root}/sthv2_train_list_videos.txt')
val = dict(rows, ann_file=f'{root}/sthv2_val_list_videos.txt')
train_dataloader = dict(dataset=dict(sources=dict(videos=train)))
val_dataloader = dict(dataset=dict(sources=dict(videos=val)))
test_dataloader = dict(dataset=dict(sources=dict(videos=val)))
