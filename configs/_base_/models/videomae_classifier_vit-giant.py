"""A classifier over VideoMAE V2's ViT-g: patches of 14x14 pixels."""

_base_ = './videomae_classifier_vit-base.py'

model = dict(backbone=dict(arch='giant', patch_size=(2, 14, 14)))
