"""MAE-ST (arXiv:2205.09113), ViT-B, for clips of 16x224x224. 90 % of the tokens are hidden, anywhere in space and time.

It is as the released weights were trained (github.com/facebookresearch/SlowFast, configs/masked_ssl). Positions are
learned, spatial plus temporal. The decoder takes over the class token. It has a learned position for every token and 8
heads. It predicts the first frame of each tubelet, normalised over all channels. 156 of 1568 tokens are visible.
Initial weights are those of github.com/facebookresearch/mae_st, Xavier's for linear layers, with queries, keys and
values as separate layers. SlowFast drew them from a normal distribution of std 0.02, and started all biases at 0.02.
"""

mean, std = (0.45, 0.45, 0.45), (0.225, 0.225, 0.225)

model = dict(
    type='MaskedAutoencoder',
    data_preprocessor=dict(type='ClipPreprocessor', mean=mean, std=std),
    backbone=dict(
        type='SpatioTemporalViT',
        arch='base',
        patch_size=(2, 16, 16),  # frames, height, width
        clip_size=(16, 224, 224),
        positions='separable',
        cls_token=True,
        separate_qkv_init=True,
    ),
    mask_generator=dict(video=dict(type='RandomMasking', ratio=0.9, round_down='visible')),
    head=dict(
        type='MAEHead',
        embed_dim=512,
        depth=4,
        num_heads=8,
        qkv_bias=True,
        positions='learned',
        tokens='decoder',
        separate_qkv_init=True,
        mask_token_std=0.02,
        pred_std=None,
        target=dict(type='PixelTarget', normalize='patch', frames='first', mean=mean, std=std),
    ),
)

# A config takes one with `model = _base_.sizes.large`. The release's ViT-H has patches of 16x16 pixels. The model of
# that name in MAE-ST's repository has 14x14.
sizes = dict(large=dict(backbone=dict(arch='large')), huge=dict(backbone=dict(arch='huge')))
