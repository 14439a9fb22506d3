"""OmniMAE's ViT-B without final norm, with MultiMAE's segmentation head of ConvNeXt blocks (arXiv:2204.01678).

DropPath of 0.1, 6144 numbers a token and 4 blocks are those of MultiMAE's released code and configs, by which it
compares MAE with itself. ``init_cfg`` loads the encoder of any checkpoint, released or ours, by path or URL. The
default is OmniMAE's released one, or the one that OMNIMAE_CHECKPOINT names. MAE's needs patch_size=(1, 16, 16),
clip_size=(1, 224, 224), positions='sincos2d', cls_token=True.
"""

interpolate_positions = True  # maps are larger than what the positions were trained for

model = dict(
    type='DensePredictor',
    data_preprocessor=dict(type='MultiModalPreprocessor'),
    backbone=dict(
        type='SpatioTemporalViT',
        arch='base',
        patch_size=(2, 16, 16),  # frames, height, width
        clip_size=(16, 224, 224),  # of the position table; an image takes its first step, interpolated to its size
        drop_path_rate=0.1,
    ),
    head=dict(type='ConvNeXtHead', embed_dim=6144, upscale=4, depth=4),
    init_cfg=dict(
        type='Checkpoint',
        checkpoint='{{$OMNIMAE_CHECKPOINT:https://dl.fbaipublicfiles.com/omnivore/omnimae_ckpts/vitb_pretrain.torch}}',
    ),
)
