"""Linear probe on Places365-Standard, as ``vit-b_in1k.py``, on the lists of prepare_dataset.py.

Data: python tools/prepare_dataset.py p365 --root data/places365
Run:  bash tools/dist_train.sh configs/omnimae/linear/vit-b_p365.py 8
Not yet run.
"""

_base_ = './vit-b_in1k.py'

root = '{{$OMNIMAE_DATA:data}}/places365'
num_classes = 365

model = dict(num_classes=num_classes)
rows = dict(root=root, num_classes=num_classes)
train = dict(rows, ann_file=f'{root}/places365_train_list_images.txt')
val = dict(rows, ann_file=f'{root}/places365_val_list_images.txt')
train_dataloader = dict(dataset=dict(sources=dict(images=train)))
val_dataloader = dict(dataset=dict(sources=dict(images=val)))
test_dataloader = val_dataloader
