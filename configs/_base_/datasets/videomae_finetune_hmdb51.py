"""HMDB51 for fine-tuning VideoMAE, as ``python tools/prepare_dataset.py hmdb51 --root data/hmdb51`` leaves it.

Clips of 16 frames at a stride of 2. Everything else is as in ``videomae_finetune_k400.py``.
"""

_base_ = './videomae_finetune_k400.py'

root = '{{$OMNIMAE_DATA:data}}/hmdb51'
classifier = dict(num_classes=51)

rows = dict(root=root, stride=2, classes=f'{root}/classes.txt')
train = dict(rows, ann_file=f'{root}/hmdb51_train_list_videos.txt')
val = dict(rows, ann_file=f'{root}/hmdb51_val_list_videos.txt')
train_dataloader = dict(dataset=dict(sources=dict(videos=train)))
val_dataloader = dict(dataset=dict(sources=dict(videos=val)))
test_dataloader = dict(dataset=dict(sources=dict(videos=val)))
