"""MAE (arXiv:2111.06377), ViT-B, for images of 224x224. Three quarters of the tokens are hidden at random.

Encoder, decoder, target and initial weights are those of the released code (github.com/facebookresearch/mae).
"""

mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

model = dict(
    type='MaskedAutoencoder',
    data_preprocessor=dict(type='ClipPreprocessor', mean=mean, std=std),
    backbone=dict(
        type='SpatioTemporalViT',
        arch='base',
        patch_size=(1, 16, 16),  # frames, height, width
        clip_size=(1, 224, 224),
        positions='sincos2d',
        cls_token=True,
    ),
    mask_generator=dict(image=dict(type='RandomMasking', ratio=0.75, round_down='visible')),
    head=dict(
        type='MAEHead',
        embed_dim=512,
        depth=8,
        num_heads=16,
        qkv_bias=True,
        positions='sincos2d',
        tokens='decoder',
        mask_token_std=0.02,
        pred_std=None,
        target=dict(type='PixelTarget', normalize='patch', mean=mean, std=std),
    ),
)

# A config takes one with `model = _base_.sizes.large`.
sizes = dict(
    large=dict(backbone=dict(arch='large')),
    huge=dict(backbone=dict(arch='huge', patch_size=(1, 14, 14))),
)
