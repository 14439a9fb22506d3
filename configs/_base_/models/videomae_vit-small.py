"""VideoMAE, ViT-S."""

_base_ = './videomae_vit-base.py'

model = dict(backbone=dict(arch='small'), head=dict(embed_dim=192, num_heads=3))
