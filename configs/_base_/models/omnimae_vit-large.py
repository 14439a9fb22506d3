"""OmniMAE, ViT-L: as ViT-B, with a wider decoder (paper, section 3.2 and B.1)."""

_base_ = './omnimae_vit-base.py'

model = dict(backbone=dict(arch='large'), head=dict(embed_dim=512))
