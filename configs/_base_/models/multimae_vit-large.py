"""MultiMAE, ViT-L: the released code has the encoder's size; there are no weights of it."""

_base_ = './multimae_vit-base.py'

model = dict(backbone=dict(arch='large'))
