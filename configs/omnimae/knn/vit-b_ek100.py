"""k-NN on EPIC-Kitchens-100, as ``vit-b_ssv2.py``, on the lists of prepare_dataset.py.

Data: python tools/prepare_dataset.py ek100 --root data/epic100
Run:  python tools/test.py configs/omnimae/knn/vit-b_ek100.py CHECKPOINT
Not yet run.
"""

_base_ = './vit-b_ssv2.py'

root = '{{$OMNIMAE_DATA:data}}/epic100'
num_classes = 3806

rows = dict(root=root, num_classes=num_classes)
train = dict(rows, ann_file=f'{root}/epic100_train_list_videos.txt')
val = dict(rows, ann_file=f'{root}/epic100_val_list_videos.txt')
test_dataloader = dict(dataset=dict(sources=dict(videos=val)))
test_cfg = dict(num_classes=num_classes, bank_dataloader=dict(dataset=dict(sources=dict(videos=train))))
test_evaluator = dict(actions=f'{root}/actions.csv')
