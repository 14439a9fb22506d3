"""OmniMAE, ViT-L: as ViT-B, with a wider decoder (the released weights)."""

_base_ = './omnimae_vit-base.py'

model = dict(backbone=dict(arch='large'), head=dict(embed_dim=512))
