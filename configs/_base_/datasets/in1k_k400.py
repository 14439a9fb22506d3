"""IN1K images and K400 videos, mixed as in ``in1k_ssv2.py``, with Kinetics-400 instead of SSv2.

Expected files, next to ``imagenet``::

    kinetics400/videos_{train,val}/CLASS/*.mp4

The recipe is that of SSv2 (arXiv:2206.08356, B.1). So are the clips, 16 frames at 6 a second (section 3.2), and the
missing flip. K400 has clips of 2 seconds in fine-tuning only (Table 5).
"""

_base_ = './in1k_ssv2.py'

train_dataloader = dict(
    dataset=dict(
        sources=dict(
            _delete_=True,
            in1k=_base_.train_dataloader.dataset.sources.in1k,
            k400=dict(
                _base_.train_dataloader.dataset.sources.ssv2,
                root=f'{_base_.data_root}/kinetics400/videos_train',
                ann_file=None,
                allow_outside=False,
            ),
        ),
    ),
    sampler=dict(repeats=dict(_delete_=True, in1k=1.0, k400=0.25)),
)
val_dataloader = dict(
    dataset=dict(
        sources=dict(
            _delete_=True,
            in1k=_base_.val_dataloader.dataset.sources.in1k,
            k400=dict(
                _base_.val_dataloader.dataset.sources.ssv2,
                root=f'{_base_.data_root}/kinetics400/videos_val',
                ann_file=None,
                allow_outside=False,
            ),
        ),
    ),
)
