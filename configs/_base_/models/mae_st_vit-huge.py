"""MAE-ST, ViT-H: patches of 16x16 pixels, as released; the model of that name in MAE-ST's repository has 14x14."""

_base_ = './mae_st_vit-base.py'

model = dict(backbone=dict(arch='huge'))
