"""K400 videos alone, each read once for four clips: the data of MAE-ST pretraining.

As ``videomae_k400.py`` but for two things, both of the released code: every replica is a clip from another random time,
and crops are those of a random area between a half and the whole of the frame, half of them mirrored.
"""

_base_ = './videomae_k400.py'

train_dataloader = dict(
    dataset=dict(
        sources=dict(
            k400=dict(
                replicas=4,
                new_clips=True,
                transforms=[
                    dict(type='RandomResizedCrop', size=224, scale=(0.5, 1.0)),
                    dict(type='Flip', prob=0.5),
                ],
            ),
        ),
    ),
)
