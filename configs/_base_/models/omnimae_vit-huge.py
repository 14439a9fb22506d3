"""OmniMAE, ViT-H: patches of 14x14 pixels and a wider, deeper decoder (paper, section 3.2 and B.1)."""

_base_ = './omnimae_vit-base.py'

model = dict(backbone=dict(arch='huge', patch_size=(2, 14, 14)), head=dict(embed_dim=512, depth=8))
