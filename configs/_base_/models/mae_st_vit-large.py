"""MAE-ST, ViT-L."""

_base_ = './mae_st_vit-base.py'

model = dict(backbone=dict(arch='large'))
