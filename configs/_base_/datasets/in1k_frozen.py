"""IN1K for frozen evaluation. The validation images are tested, the training images are the ``bank``.

Expected files, under ``data`` or the folder named by the environment variable OMNIMAE_DATA::

    imagenet/{train,val}/CLASS/*.JPEG
"""

size = 224  # pixels of a crop
data_root = '{{$OMNIMAE_DATA:data}}'
num_classes = 1000

bank = dict(
    type='ImageDataset',
    root=f'{data_root}/imagenet/train',
    num_classes=num_classes,
    transforms=[dict(type='ResizeShort', size=size, interpolation='bicubic'), dict(type='CenterCrop', size=size)],
)
test_dataloader = dict(
    batch_size=128,
    num_workers=10,
    persistent_workers=True,
    pin_memory=True,
    dataset=dict(type='MixedDataset', sources=dict(images=dict(bank, root=f'{data_root}/imagenet/val'))),
    sampler=dict(type='EvalSampler'),
    batch_sampler=dict(type='EvalBatchSampler'),
    collate_fn=dict(type='collate_clips'),
)
test_evaluator = dict(type='ClipAccuracy')
