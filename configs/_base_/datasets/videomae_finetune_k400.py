"""Kinetics-400 for fine-tuning VideoMAE, as ``python tools/prepare_dataset.py k400 --root data/kinetics400`` leaves it.

Dense clips of 16 frames at a stride of 4, here 64/30 seconds whatever the frame rate, in two replicas of each decoded
video; tested on 5 clips x 3 crops, the first of which begins and the last of which ends with the video, validated on
the middle of the middle clip; the softmax of the views is averaged. RandAugment (m7, 4 layers, mstd 0.5, increasing) on
the whole frame, then crop and flip, erasing to noise: the released code (github.com/MCG-NJU/VideoMAE). Its crops are
bilinear, without antialiasing; its RandAugment is bicubic, where ours draws one of two filters.
"""

_base_ = './finetune_videos.py'

root = '{{$OMNIMAE_DATA:data}}/kinetics400'
num_classes = 400

# for the model
head_init_std = 2e-5

rows = dict(root=root, clip_seconds=64 / 30, to_end=True, classes=f'{root}/classes.txt')
train = dict(
    rows,
    ann_file=f'{root}/kinetics400_train_list_videos.txt',
    replicas=2,
    transforms=[
        dict(type='RandAugment', policy='timm', magnitude=7, num_layers=4),
        dict(type='RandomResizedCrop', size=224, scale=(0.08, 1.0)),
        dict(type='Flip', prob=0.5),
    ],
)
val = dict(rows, ann_file=f'{root}/kinetics400_val_list_videos.txt')
train_dataloader = dict(dataset=dict(sources=dict(videos=train)))
val_dataloader = dict(dataset=dict(sources=dict(videos=val)))
test_dataloader = dict(dataset=dict(sources=dict(videos=val)))
val_evaluator = dict(softmax=True)
test_evaluator = val_evaluator
