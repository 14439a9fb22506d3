"""A classifier over OmniMAE's ViT-B, for clips of 16x224x224 and images of 224x224.

Pooling and norm are the release's. DropPath, label smoothing, mixup and CutMix are those of the paper
(arXiv:2206.08356), Tables 4 and 5. ``init_cfg`` loads the backbone of any checkpoint, released or ours, raw or EMA, by
path or URL. The default is the released one, or the one that OMNIMAE_CHECKPOINT names.
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
        drop_path_rate=0.1,
    ),
    num_classes=1000,
    label_smoothing=0.1,
    init_cfg=dict(
        type='Checkpoint',
        checkpoint='{{$OMNIMAE_CHECKPOINT:https://dl.fbaipublicfiles.com/omnivore/omnimae_ckpts/vitb_pretrain.torch}}',
    ),
)

# A config takes one with `model = _base_.sizes.large`. DropPath is from the paper's Tables 4 and 5. The release
# has 0.1.
sizes = dict(
    large=dict(
        backbone=dict(arch='large', drop_path_rate=0.2),
        init_cfg=dict(
            checkpoint='{{$OMNIMAE_CHECKPOINT:https://dl.fbaipublicfiles.com/omnivore/omnimae_ckpts/vitl_pretrain.torch}}'
        ),
    ),
    huge=dict(
        backbone=dict(arch='huge', patch_size=(2, 14, 14), drop_path_rate=0.2),
        init_cfg=dict(
            checkpoint='{{$OMNIMAE_CHECKPOINT:https://dl.fbaipublicfiles.com/omnivore/omnimae_ckpts/vith_pretrain.torch}}'
        ),
    ),
)
