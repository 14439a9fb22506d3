"""A classifier over MAE's ViT-B, for images of 224x224.

The class token takes part in the attention. The other tokens are pooled, followed by a fresh norm and a linear head.
Positions are trained too, starting from those of the checkpoint. DropPath, label smoothing, mixup and CutMix are those
of the released code (github.com/facebookresearch/mae). ``init_cfg`` loads the backbone of any checkpoint. The default
is the released one, or the one that OMNIMAE_CHECKPOINT names.
"""

model = dict(
    type='Classifier',
    data_preprocessor=dict(
        type='ClipPreprocessor', mixing=dict(type='MixupCutMix', mixup_alpha=0.8, cutmix_alpha=1.0, switch_prob=0.5)
    ),
    backbone=dict(
        type='SpatioTemporalViT',
        arch='base',
        patch_size=(1, 16, 16),  # frames, height, width
        clip_size=(1, 224, 224),
        positions='sincos2d',
        cls_token=True,
        train_positions=True,
        drop_path_rate=0.1,
    ),
    num_classes=1000,
    label_smoothing=0.1,
    init_cfg=dict(
        type='Checkpoint',
        checkpoint='{{$OMNIMAE_CHECKPOINT:https://dl.fbaipublicfiles.com/mae/pretrain/mae_pretrain_vit_base.pth}}',
    ),
)

# A config takes one with `model = _base_.sizes.large`.
sizes = dict(
    large=dict(
        backbone=dict(arch='large', drop_path_rate=0.2),
        init_cfg=dict(
            checkpoint='{{$OMNIMAE_CHECKPOINT:https://dl.fbaipublicfiles.com/mae/pretrain/mae_pretrain_vit_large.pth}}'
        ),
    ),
    huge=dict(
        backbone=dict(arch='huge', patch_size=(1, 14, 14), drop_path_rate=0.3),
        init_cfg=dict(
            checkpoint='{{$OMNIMAE_CHECKPOINT:https://dl.fbaipublicfiles.com/mae/pretrain/mae_pretrain_vit_huge.pth}}'
        ),
    ),
)
