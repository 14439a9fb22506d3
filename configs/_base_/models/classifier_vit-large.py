"""A classifier over OmniMAE's ViT-L: as ViT-B, with DropPath of 0.2 (paper, Tables 4 and 5; the release built 0.1)."""

_base_ = './classifier_vit-base.py'

model = dict(
    backbone=dict(arch='large', drop_path_rate=0.2),
    init_cfg=dict(
        checkpoint='{{$OMNIMAE_CHECKPOINT:https://dl.fbaipublicfiles.com/omnivore/omnimae_ckpts/vitl_pretrain.torch}}'
    ),
)
