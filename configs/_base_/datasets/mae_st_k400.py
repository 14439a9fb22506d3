"""K400 videos alone, each read once for four clips: the data of MAE-ST pretraining.

As ``videomae_k400.py`` but for three things of the released code: every replica is a clip from another random time,
strides count frames of a video that would have 30 a second, and crops are those of a random area between a half and the
whole of the frame, bilinear without antialiasing, half of them mirrored. The release decodes to a short side of 256
before it crops; here the crop is resized once, from the original frame.
"""

_base_ = './videomae_k400.py'

train_dataloader = dict(
    dataset=dict(
        sources=dict(
            k400=dict(
                sampling='resampled',
                replicas=4,
                new_clips=True,
                transforms=[
                    dict(type='RandomResizedCrop', size=_base_.size, scale=(0.5, 1.0)),
                    dict(type='Flip', prob=0.5),
                ],
            ),
        ),
    ),
)
val_dataloader = dict(dataset=dict(sources=dict(k400=dict(sampling='resampled'))))
