"""OmniMAE, ViT-B, for clips of 16x224x224 and images of 224x224.

Encoder, decoder and masks are those of the paper (arXiv:2206.08356), section 3.2. 90 % of the image and 95 % of the
video tokens are hidden at random. Like the release this rounds the hidden tokens down, so 20 and 79 are visible.
Section 4.2 prints 19 and 78 (``round_down='visible'``). The decoder's 16 heads and missing qkv bias are those of the
released weights. The paper does not state them. Targets are made of pixels in 0..1, as in the release. The paper has
0..255 (B.1), which differs in the weight of eps.
"""

model = dict(
    type='MaskedAutoencoder',
    data_preprocessor=dict(type='ClipPreprocessor'),
    backbone=dict(
        type='SpatioTemporalViT',
        arch='base',
        patch_size=(2, 16, 16),  # frames, height, width
        clip_size=(16, 224, 224),  # of the position table; clips of other sizes are accepted
    ),
    mask_generator=dict(
        image=dict(type='RandomMasking', ratio=0.9),
        video=dict(type='RandomMasking', ratio=0.95),
    ),
    head=dict(
        type='MAEHead',
        embed_dim=384,
        depth=4,
        num_heads=16,
        qkv_bias=False,
        target=dict(type='PixelTarget', normalize='channel'),
    ),
)

# A config takes one with `model = _base_.sizes.large`. The decoders are those of the paper, section 3.2 and B.1.
sizes = dict(
    large=dict(backbone=dict(arch='large'), head=dict(embed_dim=512)),
    huge=dict(backbone=dict(arch='huge', patch_size=(2, 14, 14)), head=dict(embed_dim=512, depth=8)),
)
