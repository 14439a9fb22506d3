"""Places365-Standard, 365 classes, as ``python tools/prepare_dataset.py p365 --root data/places365`` leaves it."""

_base_ = './finetune_images.py'

root = '{{$OMNIMAE_DATA:data}}/places365'
classifier = dict(num_classes=365)

train = dict(root=root, ann_file=f'{root}/places365_train_list_images.txt', classes=f'{root}/classes.txt')
val = dict(root=root, ann_file=f'{root}/places365_val_list_images.txt', classes=f'{root}/classes.txt')
train_dataloader = dict(dataset=dict(sources=dict(images=train)))
val_dataloader = dict(dataset=dict(sources=dict(images=val)))
test_dataloader = val_dataloader
