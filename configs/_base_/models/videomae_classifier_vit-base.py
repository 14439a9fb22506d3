"""A classifier over VideoMAE's ViT-B, for clips of 16x224x224.

Mean of all tokens, a fresh norm, dropout, a linear head that begins near zero; label smoothing, mixup and CutMix: the
released code (github.com/MCG-NJU/VideoMAE, which VideoMAE V2 shares). ``init_cfg`` takes the backbone of any
checkpoint, theirs or ours: the one that OMNIMAE_CHECKPOINT names, else the one that each config says.
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
