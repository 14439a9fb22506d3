"""VideoMAE, ViT-H. A deeper and wider decoder, as released."""

_base_ = './videomae_vit-base.py'

model = dict(backbone=dict(arch='huge'), head=dict(embed_dim=640, depth=12, num_heads=8))
