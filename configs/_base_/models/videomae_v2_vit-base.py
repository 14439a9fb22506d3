"""VideoMAE V2 (arXiv:2303.16727), ViT-B: running cells leave the decoder half of the tokens.

Of 1568 tokens the encoder sees 160 and the decoder predicts 784, of which 704 count: released code
(github.com/OpenGVLab/VideoMAEv2).
"""

_base_ = './videomae_vit-base.py'

model = dict(
    mask_generator=dict(
        video=dict(
            _delete_=True,
            type='DualMasking',
            encoder=dict(type='TubeMasking', ratio=0.9),
            decoder=dict(type='RunningCellMasking', ratio=0.5),
        )
    )
)
