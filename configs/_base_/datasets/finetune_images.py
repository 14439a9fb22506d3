"""How images are read in fine-tuning and testing. A benchmark's file adds their folders and classes.

Crop, flip, RandAugment of magnitude 9 (std 0.5), erasing, batch size and EMA are those of the paper (arXiv:2206.08356),
B.2, Table 4. The rest is that of the release, whose IN1K config has no EMA. RandAugment has two layers with increasing
severity (the table prints 0.5 layers). Erasing is to black before the normalisation, with the ranges of torchvision.
Tests take the centre crop of a short side of 224. The head's initial weights are the release's too.
"""

# for the hooks; Table 4 has the best test accuracy of all epochs, MAE's and MultiMAE's releases log it
size = 224  # pixels of a crop
checkpoint = dict(save_best='accuracy/top1')

# what these data require of a model
erasing = dict(type='RandomErasing', fill='black', prob=0.25, area=(0.02, 0.33), ratio=(0.3, 3.3))
classifier = dict(head_init_std=2e-5, data_preprocessor=dict(erasing=erasing))

train_dataloader = dict(
    batch_size=32,  # images per GPU and micro-batch, as in the release (32 GPUs); mixing is within it
    num_workers=10,
    persistent_workers=True,
    pin_memory=True,
    dataset=dict(
        type='MixedDataset',
        sources=dict(
            images=dict(
                type='ImageDataset',
                transforms=[
                    dict(type='RandomResizedCrop', size=size, scale=(0.08, 1.0), interpolation='bicubic'),
                    dict(type='Flip', prob=0.5),
                    dict(type='RandAugment', policy='timm', magnitude=9, num_layers=2),
                ],
            ),
        ),
    ),
    sampler=dict(type='MixedSampler'),
    batch_sampler=dict(type='MixedBatchSampler', global_batch_size=1024),
    collate_fn=dict(type='collate_clips'),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=10,
    persistent_workers=True,
    pin_memory=True,
    dataset=dict(
        type='MixedDataset',
        sources=dict(
            images=dict(
                type='ImageDataset',
                transforms=[
                    dict(type='ResizeShort', size=size, interpolation='bicubic'),
                    dict(type='CenterCrop', size=size),
                ],
            ),
        ),
    ),
    sampler=dict(type='EvalSampler'),
    batch_sampler=dict(type='EvalBatchSampler'),
    collate_fn=dict(type='collate_clips'),
)
val_evaluator = dict(type='ClipAccuracy', topk=(1, 5))
val_cfg = dict(type='ValLoop')
test_dataloader = val_dataloader
test_evaluator = val_evaluator
test_cfg = dict(type='TestLoop')

custom_hooks = [dict(type='EMAHook', momentum=1e-4)]
