"""What pretraining, fine-tuning and frozen evaluation share. It is CIFAR-10 as JPEG files, and a ViT small enough for
CPUs.

Data: data/cifar10/{train,test}/CLASS/*.jpg; the first 1000 training images of each class are used, in a list made by
      cd data/cifar10 && (cd train && ls */0???.jpg) | awk -F/ '{print $0, $1}' > train_10k.txt
An image of 32x32 pixels is 64 patches of 4x4.
"""

_base_ = ['../../_base_/default_runtime.py']

root = '{{$OMNIMAE_DATA:data}}/cifar10'
classes = ('airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck')
backbone = dict(
    type='SpatioTemporalViT', embed_dim=128, depth=6, num_heads=4, patch_size=(1, 4, 4), clip_size=(1, 32, 32)
)
crop = [dict(type='RandomResizedCrop', size=32, scale=(0.4, 1.0)), dict(type='Flip', prob=0.5)]
bank = dict(type='ImageDataset', root=f'{root}/train', ann_file=f'{root}/train_10k.txt', classes=classes)

train_dataloader = dict(
    batch_size=256,
    num_workers=2,
    persistent_workers=True,
    dataset=dict(type='MixedDataset', sources=dict(images=dict(bank, transforms=crop))),
    sampler=dict(type='MixedSampler'),
    batch_sampler=dict(type='MixedBatchSampler', global_batch_size=256),
    collate_fn=dict(type='collate_clips'),
)
val_dataloader = dict(
    batch_size=250,
    num_workers=1,
    dataset=dict(
        type='MixedDataset', sources=dict(images=dict(type='ImageDataset', root=f'{root}/test', classes=classes))
    ),
    sampler=dict(type='EvalSampler'),
    batch_sampler=dict(type='EvalBatchSampler'),
    collate_fn=dict(type='collate_clips'),
)
val_cfg = dict(type='ValLoop')
