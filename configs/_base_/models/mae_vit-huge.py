"""MAE, ViT-H: patches of 14x14 pixels."""

_base_ = './mae_vit-base.py'

model = dict(backbone=dict(arch='huge', patch_size=(1, 14, 14)))
