"""Linear probe on EPIC-Kitchens-100, as ``vit-b_ssv2.py``, on the lists of prepare_dataset.py.

The classes are actions. ``actions.csv`` gives the accuracies of verbs and nouns.

Data: python tools/prepare_dataset.py ek100 --root data/epic100
Run:  bash tools/dist_train.sh configs/omnimae/linear/vit-b_ek100.py 8
Not yet run.
"""

_base_ = './vit-b_ssv2.py'

root = '{{$OMNIMAE_DATA:data}}/epic100'
num_classes = 3806

model = dict(num_classes=num_classes)
rows = dict(root=root, num_classes=num_classes)
train = dict(rows, ann_file=f'{root}/epic100_train_list_videos.txt')
val = dict(rows, ann_file=f'{root}/epic100_val_list_videos.txt')
train_dataloader = dict(dataset=dict(sources=dict(videos=train)))
val_dataloader = dict(dataset=dict(sources=dict(videos=val)))
test_dataloader = dict(dataset=dict(sources=dict(videos=val)))
test_evaluator = dict(actions=f'{root}/actions.csv')
val_evaluator = test_evaluator
