"""How images are read in fine-tuning and testing; a benchmark's file adds where they are and their classes.

Crop, flip and RandAugment (m9, mstd 0.5, increasing), erasing to black before the normalisation, test by resizing the
short side to 224 and cutting the middle: paper (arXiv:2206.08356), Table 4, in the form that the release gives them for
IN1K. Batch and EMA: Table 4 (the release has no EMA). The head's initial weights: the release.
"""

# for the model
head_init_std = 2e-5
erasing = dict(type='RandomErasing', fill='black', prob=0.25)

train_dataloader = dict(
    batch_size=32,  # images per GPU and micro-batch, as in the release (32 GPUs); they are mixed with each other
    num_workers=10,
    persistent_workers=True,
    pin_memory=True,
    dataset=dict(
        type='MixedDataset',
        sources=dict(
            images=dict(
                type='ImageDataset',
                transforms=[
                    dict(type='RandomResizedCrop', size=224, scale=(0.08, 1.0), interpolation='bicubic'),
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
                    dict(type='ResizeShort', size=224, interpolation='bicubic'),
                    dict(type='CenterCrop', size=224),
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
