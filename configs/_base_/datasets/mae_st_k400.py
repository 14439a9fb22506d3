"""K400 videos alone, each read once for four clips, the data of MAE-ST pretraining.

As ``videomae_k400.py``, with three differences of the released code. Every replica is a clip from another random time.
Strides count frames at 30 a second. Crops have a random area between a half and the whole of the frame. They are
bilinear without antialiasing, and half of them are flipped. The release decodes to a short side of 256 before it crops.
Here the crop is resized once, from the original frame.
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
