"""OmniMAE, ViT-B, for clips of 16x224x224 and images of 224x224.

Encoder and decoder: paper (arXiv:2206.08356), section 4 and appendix A; mask ratios: its final model, 90 % of the image
and 95 % of the video tokens at random. The decoder has no qkv bias, like the released weights (the paper is silent).
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
