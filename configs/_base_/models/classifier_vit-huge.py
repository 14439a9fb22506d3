"""A classifier over OmniMAE's ViT-H: patches of 14x14 pixels, DropPath of 0.2 (paper, Tables 4 and 5)."""

_base_ = './classifier_vit-base.py'

model = dict(
    backbone=dict(arch='huge', patch_size=(2, 14, 14), drop_path_rate=0.2),
    init_cfg=dict(
        checkpoint='{{$OMNIMAE_CHECKPOINT:https://dl.fbaipublicfiles.com/omnivore/omnimae_ckpts/vith_pretrain.torch}}'
    ),
)
