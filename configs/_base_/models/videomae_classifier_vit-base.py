"""A classifier over VideoMAE's ViT-B, for clips of 16x224x224.

The source is the released code (github.com/MCG-NJU/VideoMAE, which VideoMAE V2 shares). The mean of all tokens goes
through a fresh norm, dropout, and a linear head that starts near zero. Label smoothing, mixup and CutMix are the
release's too. ``init_cfg`` loads the backbone of any checkpoint, theirs or ours. It is the one that OMNIMAE_CHECKPOINT
names, else the one that each config names.
"""

model = dict(
    type='Classifier',
    data_preprocessor=dict(
        type='ClipPreprocessor', mixing=dict(type='MixupCutMix', mixup_alpha=0.8, cutmix_alpha=1.0, switch_prob=0.5)
    ),
    backbone=dict(
        type='SpatioTemporalViT',
        arch='base',
        patch_size=(2, 16, 16),  # frames, height, width
        clip_size=(16, 224, 224),  # of the position table; clips of other sizes are accepted
        qkv_bias='qv',
        drop_path_rate=0.1,
    ),
    num_classes=400,
    label_smoothing=0.1,
)

# A config takes one with `model = _base_.sizes.large`.
sizes = dict(
    small=dict(backbone=dict(arch='small')),
    large=dict(backbone=dict(arch='large')),
    huge=dict(backbone=dict(arch='huge', drop_path_rate=0.2)),
    giant=dict(backbone=dict(arch='giant', patch_size=(2, 14, 14))),  # of V2
)
