"""IN1K images and K400 videos, mixed: as ``in1k_ssv2.py``, with Kinetics-400 in the place of SSv2.

Expected files, beside ``imagenet``::

    kinetics400/videos_{train,val}/CLASS/*.mp4

Clips of 2.0 seconds: paper (arXiv:2206.08356), appendix A. The rest is the recipe of SSv2, which the paper says to be
the same; flips, which it does not mention for this pretraining, are left out with it.
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
                clip_seconds=2.0,
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
                clip_seconds=2.0,
            ),
        ),
    ),
)
