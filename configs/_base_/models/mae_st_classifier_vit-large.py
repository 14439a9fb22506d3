"""A classifier over MAE-ST's ViT-L."""

_base_ = './mae_st_classifier_vit-base.py'

model = dict(
    backbone=dict(arch='large', drop_path_rate=0.2),
    init_cfg=dict(
        checkpoint='{{$OMNIMAE_CHECKPOINT:https://dl.fbaipublicfiles.com/pyslowfast/masked_models/VIT_L_16x4_MAE_PT.pyth}}'
    ),
)
