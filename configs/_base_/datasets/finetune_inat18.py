"""iNaturalist 2018, 8,142 classes, as ``python tools/prepare_dataset.py inat18 --root data/inat2018`` leaves it."""

_base_ = './finetune_images.py'

root = '{{$OMNIMAE_DATA:data}}/inat2018'
classifier = dict(num_classes=8142)

train = dict(root=root, ann_file=f'{root}/inat2018_train_list_images.txt', classes=f'{root}/classes.txt')
val = dict(root=root, ann_file=f'{root}/inat2018_val_list_images.txt', classes=f'{root}/classes.txt')
train_dataloader = dict(dataset=dict(sources=dict(images=train)))
val_dataloader = dict(dataset=dict(sources=dict(images=val)))
test_dataloader = val_dataloader
