"""VideoMAE V2, ViT-H. Its decoder is narrower than in VideoMAE, and activations are recomputed."""

_base_ = './videomae_v2_vit-base.py'

model = dict(
    backbone=dict(arch='huge', grad_checkpointing=True),
    head=dict(embed_dim=512, num_heads=8, grad_checkpointing=True),
)
