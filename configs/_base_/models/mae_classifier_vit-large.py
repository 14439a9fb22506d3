"""A classifier over MAE's ViT-L: DropPath of 0.2."""

_base_ = './mae_classifier_vit-base.py'

model = dict(
    backbone=dict(arch='large', drop_path_rate=0.2),
    init_cfg=dict(
        checkpoint='{{$OMNIMAE_CHECKPOINT:https://dl.fbaipublicfiles.com/mae/pretrain/mae_pretrain_vit_large.pth}}'
    ),
)
