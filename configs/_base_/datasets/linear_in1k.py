"""IN1K for a linear probe, as ``in1k_frozen.py``. A step has 16384 training images, cropped and flipped.

There is no other augmentation (MAE, arXiv:2111.06377, appendix A). A crop that does not fit is clipped, not drawn
again. So does its released code, which follows the one for TPUs.
"""

_base_ = './in1k_frozen.py'

train_dataloader = dict(
    batch_size=512,
    num_workers=10,
    persistent_workers=True,
    pin_memory=True,
    dataset=dict(
        type='MixedDataset',
        sources=dict(
            images=dict(
                _base_.bank,
                transforms=[
                    dict(type='RandomResizedCrop', size=_base_.size, interpolation='bicubic', redraw=False),
                    dict(type='Flip', prob=0.5),
                ],
            ),
        ),
    ),
    sampler=dict(type='MixedSampler'),
    batch_sampler=dict(type='MixedBatchSampler', global_batch_size=16384),
    collate_fn=dict(type='collate_clips'),
)
val_dataloader = _base_.test_dataloader
val_evaluator = _base_.test_evaluator
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
