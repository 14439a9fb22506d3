"""VideoMAE V2 (arXiv:2303.16727), ViT-B. Running cells leave the decoder half of the tokens.

Of 1568 tokens the encoder sees 160 and the decoder predicts 784, of which 704 count (released code,
github.com/OpenGVLab/VideoMAEv2).
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

# A config takes one with `model = _base_.sizes.large`. ViT-H's decoder is narrower than in VideoMAE. ViT-g's shares the
# encoder's odd mlp_ratio. Both recompute activations.
sizes = dict(
    _delete_=True,
    large=dict(backbone=dict(arch='large'), head=dict(embed_dim=512, num_heads=8)),
    huge=dict(
        backbone=dict(arch='huge', grad_checkpointing=True),
        head=dict(embed_dim=512, num_heads=8, grad_checkpointing=True),
    ),
    giant=dict(
        backbone=dict(arch='giant', patch_size=(2, 14, 14), grad_checkpointing=True),
        head=dict(embed_dim=512, num_heads=8, mlp_ratio=48 / 11, grad_checkpointing=True),
    ),
)
