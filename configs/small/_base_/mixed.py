"""What pretraining, fine-tuning and frozen evaluation share. It is CIFAR-10, videos made of it, and a ViT for CPUs.

Data: data/cifar10/{train,test}/CLASS/*.jpg, and data/small, made by
      python tools/prepare_dataset.py small --root data/small --images data/cifar10
An image of 24x24 pixels has 36 tokens. A clip of 8 frames, spread over 1.6 of 2 seconds, has 144. There are 10,000
images and 4000 videos for training, 1250 and 496 for validation, 2500 and 1000 for the test. Test images, and those in
the test videos, are of CIFAR-10's own test set.
"""

_base_ = ['../../_base_/default_runtime.py']

root = '{{$OMNIMAE_DATA:data}}'
clip_size = (8, 24, 24)
backbone = dict(type='SpatioTemporalViT', embed_dim=96, depth=4, num_heads=4, patch_size=(2, 4, 4), clip_size=clip_size)
classes = ('airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck')
image = dict(type='ImageDataset', root=f'{root}/cifar10', classes=classes)
video = dict(type='VideoDataset', clip_seconds=1.6, num_frames=clip_size[0], num_classes=8)
# no flip of videos: it would turn one motion into another
crop = [dict(type='RandomResizedCrop', size=clip_size[1], scale=(0.5, 1.0))]
flip = dict(type='Flip', prob=0.5)
middle = [dict(type='CenterCrop', size=28), dict(type='ResizeShort', size=clip_size[1])]

images = dict(
    train=dict(image, ann_file=f'{root}/small/images_train.txt', transforms=[*crop, flip]),
    val=dict(image, ann_file=f'{root}/small/images_val.txt', transforms=middle),
    test=dict(image, ann_file=f'{root}/small/images_test.txt', transforms=middle),
)
videos = dict(
    train=dict(video, root=f'{root}/small/videos/train', ann_file=f'{root}/small/videos/train.txt', transforms=crop),
    val=dict(video, root=f'{root}/small/videos/val', ann_file=f'{root}/small/videos/val.txt', transforms=middle),
    test=dict(video, root=f'{root}/small/videos/test', ann_file=f'{root}/small/videos/test.txt', transforms=middle),
)

train_dataloader = dict(
    batch_size=16,
    num_workers=1,
    persistent_workers=True,
    dataset=dict(type='MixedDataset', sources=dict(images=images['train'], videos=videos['train'])),
    sampler=dict(type='MixedSampler'),
    batch_sampler=dict(type='MixedBatchSampler', global_batch_size=16),
    collate_fn=dict(type='collate_clips'),
)
val_dataloader = dict(
    batch_size=100,
    num_workers=0,
    dataset=dict(type='MixedDataset', sources=dict(images=images['val'], videos=videos['val'])),
    sampler=dict(type='EvalSampler'),
    batch_sampler=dict(type='EvalBatchSampler'),
    collate_fn=dict(type='collate_clips'),
)
val_cfg = dict(type='ValLoop')
