"""Kinetics-600 for fine-tuning VideoMAE, as ``python tools/prepare_dataset.py k600 --root data/kinetics600`` leaves it.

Everything else as in ``videomae_finetune_k400.py``.
"""

_base_ = './videomae_finetune_k400.py'

root = '{{$OMNIMAE_DATA:data}}/kinetics600'
classifier = dict(num_classes=600)

rows = dict(root=root, classes=f'{root}/classes.txt')
train = dict(rows, ann_file=f'{root}/kinetics600_train_list_videos.txt')
val = dict(rows, ann_file=f'{root}/kinetics600_val_list_videos.txt')
train_dataloader = dict(dataset=dict(sources=dict(videos=train)))
val_dataloader = dict(dataset=dict(sources=dict(videos=val)))
test_dataloader = dict(dataset=dict(sources=dict(videos=val)))
