"""OmniMAE in small, one model for images and videos in turns (arXiv:2206.08356). It is the base of the small
experiments.

75 % of the tokens of images are hidden, 90 % of videos, as in the base of the paper's ablations. 9 of 36 and 15 of 144
are visible. Every epoch has 500 steps of 16 samples, half of them images. Each decoded video gives four crops and
masks.

Run: python tools/train.py configs/small/pretrain/joint.py
Expect: docs/evidence_details.md, figure2.
"""

_base_ = ['../_base_/mixed.py']

model = dict(
    type='MaskedAutoencoder',
    backbone=_base_.backbone,
    head=dict(type='MAEHead', embed_dim=64, depth=1, num_heads=4, qkv_bias=False),
    mask_generator=dict(image=dict(type='RandomMasking', ratio=0.75), video=dict(type='RandomMasking', ratio=0.9)),
)
train_dataloader = dict(
    dataset=dict(sources=dict(videos=dict(replicas=4))), sampler=dict(repeats=dict(images=0.4, videos=0.25))
)
val_evaluator = dict(type='ReconstructionLoss')

optim_wrapper = dict(
    type='AutocastOptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, betas=(0.9, 0.95), weight_decay=0.05, fused=True),
    constructor='LayerDecayConstructor',
)
param_scheduler = dict(type='WarmupCosineLR', warmup_epochs=1)
train_cfg = dict(type='EpochTrainLoop', max_epochs=30, val_interval=30)
default_hooks = dict(logger=dict(interval=250), checkpoint=dict(interval=1, max_keep_ckpts=1))
