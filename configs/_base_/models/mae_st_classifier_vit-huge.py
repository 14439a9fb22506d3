"""A classifier over MAE-ST's ViT-H."""

_base_ = './mae_st_classifier_vit-base.py'

start = (
    '{{$OMNIMAE_CHECKPOINT:https://dl.fbaipublicfiles.com/pyslowfast/masked_models/VIT_H_16x4_MAE_PT_400e_85.1.pyth}}'
)

model = dict(backbone=dict(arch='huge', drop_path_rate=0.2), dropout=0.5, init_cfg=dict(checkpoint=start))
