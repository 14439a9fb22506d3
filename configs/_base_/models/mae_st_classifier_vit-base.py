"""A classifier over MAE-ST's ViT-B, for clips of 16x224x224.

The source is SlowFast's configs/masked_ssl. The mean of all tokens except the class token goes through the norm of
pretraining, dropout, and a linear head that starts near zero. Label smoothing, mixup and CutMix are SlowFast's too.
``init_cfg`` loads the backbone of any checkpoint, theirs or ours. It is the one that OMNIMAE_CHECKPOINT names, else the
released one.
"""

model = dict(
    type='Classifier',
    data_preprocessor=dict(
        type='ClipPreprocessor',
        mean=(0.45, 0.45, 0.45),
        std=(0.225, 0.225, 0.225),
        mixing=dict(type='MixupCutMix', mixup_alpha=0.8, cutmix_alpha=1.0, switch_prob=0.5),
    ),
    backbone=dict(
        type='SpatioTemporalViT',
        arch='base',
        patch_size=(2, 16, 16),  # frames, height, width
        clip_size=(16, 224, 224),  # of the position table; clips of other sizes are accepted
        positions='separable',
        cls_token=True,
        drop_path_rate=0.1,
    ),
    pretrained_norm=True,
    dropout=0.3,
    num_classes=400,
    label_smoothing=0.1,
    init_cfg=dict(
        type='Checkpoint',
        checkpoint='{{$OMNIMAE_CHECKPOINT:https://dl.fbaipublicfiles.com/pyslowfast/masked_models/VIT_B_16x4_MAE_PT.pyth}}',
    ),
)

# A config takes one with `model = _base_.sizes.large`.
sizes = dict(
    large=dict(
        backbone=dict(arch='large', drop_path_rate=0.2),
        init_cfg=dict(
            checkpoint='{{$OMNIMAE_CHECKPOINT:https://dl.fbaipublicfiles.com/pyslowfast/masked_models/VIT_L_16x4_MAE_PT.pyth}}'
        ),
    ),
    huge=dict(
        backbone=dict(arch='huge', drop_path_rate=0.2),
        dropout=0.5,
        init_cfg=dict(
            checkpoint='{{$OMNIMAE_CHECKPOINT:https://dl.fbaipublicfiles.com/pyslowfast/masked_models/VIT_H_16x4_MAE_PT_400e_85.1.pyth}}'  # noqa: E501
        ),
    ),
)
