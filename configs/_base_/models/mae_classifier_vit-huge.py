"""A classifier over MAE's ViT-H: patches of 14x14 pixels, DropPath of 0.3."""

_base_ = './mae_classifier_vit-base.py'

model = dict(
    backbone=dict(arch='huge', patch_size=(1, 14, 14), drop_path_rate=0.3),
    init_cfg=dict(
        checkpoint='{{$OMNIMAE_CHECKPOINT:https://dl.fbaipublicfiles.com/mae/pretrain/mae_pretrain_vit_huge.pth}}'
    ),
)
