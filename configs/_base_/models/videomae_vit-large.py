"""VideoMAE, ViT-L. A deeper decoder, as released."""

_base_ = './videomae_vit-base.py'

model = dict(backbone=dict(arch='large'), head=dict(embed_dim=512, depth=12, num_heads=8))
