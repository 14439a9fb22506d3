"""VideoMAE V2, ViT-g. Patches of 14x14 pixels; the decoder shares the odd mlp_ratio; activations are recomputed."""

_base_ = './videomae_v2_vit-base.py'

model = dict(
    backbone=dict(arch='giant', patch_size=(2, 14, 14), grad_checkpointing=True),
    head=dict(embed_dim=512, num_heads=8, mlp_ratio=48 / 11, grad_checkpointing=True),
)
