"""A classifier over VideoMAE's ViT-S."""

_base_ = './videomae_classifier_vit-base.py'

model = dict(backbone=dict(arch='small'))
