"""MAE, ViT-L."""

_base_ = './mae_vit-base.py'

model = dict(backbone=dict(arch='large'))
