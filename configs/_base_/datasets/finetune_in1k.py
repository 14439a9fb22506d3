"""ImageNet-1K, 1,000 classes, as ``python tools/prepare_dataset.py in1k --root data/imagenet`` leaves it."""

_base_ = './finetune_images.py'

root = '{{$OMNIMAE_DATA:data}}/imagenet'
classifier = dict(num_classes=1000)

train = dict(root=root, ann_file=f'{root}/imagenet_train_list_images.txt', classes=f'{root}/classes.txt')
val = dict(root=root, ann_file=f'{root}/imagenet_val_list_images.txt', classes=f'{root}/classes.txt')
train_dataloader = dict(dataset=dict(sources=dict(images=train)))
val_dataloader = dict(dataset=dict(sources=dict(images=val)))
test_dataloader = val_dataloader
