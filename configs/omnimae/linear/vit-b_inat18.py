"""Linear probe on iNaturalist 2018, as ``vit-b_in1k.py``, on the lists of prepare_dataset.py.

Data: python tools/prepare_dataset.py inat18 --root data/inat2018
Run:  bash tools/dist_train.sh configs/omnimae/linear/vit-b_inat18.py 8
Not yet run.
"""

_base_ = './vit-b_in1k.py'

root = '{{$OMNIMAE_DATA:data}}/inat2018'
num_classes = 8142

model = dict(num_classes=num_classes)
rows = dict(root=root, num_classes=num_classes)
train = dict(rows, ann_file=f'{root}/inat2018_train_list_images.txt')
val = dict(rows, ann_file=f'{root}/inat2018_val_list_images.txt')
train_dataloader = dict(dataset=dict(sources=dict(images=train)))
val_dataloader = dict(dataset=dict(sources=dict(images=val)))
test_dataloader = val_dataloader
