"""VideoMAE (arXiv:2203.12602), ViT-B, for clips of 16x224x224. Tubes hide 90 % of the tokens.

Encoder, decoder, target and initial weights are those of the released code (github.com/MCG-NJU/VideoMAE, which VideoMAE
V2 shares).
"""

model = dict(
    type='MaskedAutoencoder',
    data_preprocessor=dict(type='ClipPreprocessor'),
    backbone=dict(
        type='SpatioTemporalViT',
        arch='base',
        patch_size=(2, 16, 16),  # frames, height, width
        clip_size=(16, 224, 224),
        qkv_bias='qv',
        xavier_patch_embed=False,
    ),
    mask_generator=dict(video=dict(type='TubeMasking', ratio=0.9)),
    head=dict(
        type='MAEHead',
        embed_dim=384,
        depth=4,
        num_heads=6,
        qkv_bias='qv',
        tokens='decoder',
        embed_bias=False,
        xavier_embed=False,
        mask_token_std=0.02,
        mask_token_cut=True,
        pred_std=None,
        target=dict(type='PixelTarget', normalize='channel', eps_on='deviation'),
    ),
)

# A config takes one with `model = _base_.sizes.large`. The decoders are as released.
sizes = dict(
    small=dict(backbone=dict(arch='small'), head=dict(embed_dim=192, num_heads=3)),
    large=dict(backbone=dict(arch='large'), head=dict(embed_dim=512, depth=12, num_heads=8)),
    huge=dict(backbone=dict(arch='huge'), head=dict(embed_dim=640, depth=12, num_heads=8)),
)
