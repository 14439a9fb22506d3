"""A classifier over VideoMAE's ViT-H."""

_base_ = './videomae_classifier_vit-base.py'

model = dict(backbone=dict(arch='huge', drop_path_rate=0.2))
