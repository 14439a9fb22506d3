"""VideoMAE V2, ViT-L."""

_base_ = './videomae_v2_vit-base.py'

model = dict(
    backbone=dict(arch='large'),
    head=dict(embed_dim=512, num_heads=8),
)
