"""OmniMAE in small, one ViT on the demo's photographs and videos, in some minutes on 2 CPU cores.

It has the same components as ``configs/omnimae/vit-b_in1k-ssv2.py``. Two settings let so small a model learn something
in so few steps:

* Half of the tokens are hidden. Of a video it is the first or the second half of its time (frame masking, Table 1b of
  arXiv:2206.08356), so the model has to extrapolate motion.
* The patch embedding learns at 0.03 of the learning rate. Its 768 inputs are all bright or dark together. At the full
  rate Adam moves all their weights the same way. Brightness then dominates, and fine-tuning never recovers. It reaches
  17 % on the motions, against 65 % with a reinitialised patch embedding. (arXiv:2104.02057 found similar effects.)

Data: python tools/prepare_dataset.py demo --root data/demo
Run:  python tools/train.py configs/demo/pretrain.py
Expect: a held-out loss of videos below 0.85 (it leaves its plateau of 0.97 after some 1000 of 2400 steps).
     ``finetune_videos.py`` has the accuracy.
"""

_base_ = ['_base_/tiny.py']

mean, std = (0.45, 0.45, 0.45), (0.225, 0.225, 0.225)

model = dict(
    type='MaskedAutoencoder',
    backbone=_base_.backbone,
    head=dict(
        type='MAEHead',
        embed_dim=64,
        depth=1,
        num_heads=4,
        qkv_bias=False,
        target=dict(type='PixelTarget', normalize=None, mean=mean, std=std),
    ),
    mask_generator=dict(image=dict(type='RandomMasking', ratio=0.75), video=dict(type='RandomMasking', ratio=0.9)),
)
train_dataloader = dict(
    dataset=dict(sources=dict(videos=dict(replicas=4))), sampler=dict(repeats=dict(images=3.75, videos=0.625))
)
val_evaluator = dict(type='ReconstructionLoss')

optim_wrapper = dict(
    type='AutocastOptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, betas=(0.9, 0.95), weight_decay=0.05, fused=True),
    constructor='DefaultOptimWrapperConstructor',
    paramwise_cfg=dict(
        custom_keys={'backbone.patch_embed': dict(lr_mult=1.0)}, norm_decay_mult=0.0, bias_decay_mult=0.0
    ),
)
param_scheduler = dict(type='WarmupCosineLR', warmup_epochs=1)
train_cfg = dict(type='EpochTrainLoop', max_epochs=10, val_interval=10)
custom_hooks = [dict(type='ReconstructionHook', interval=10)]
default_hooks = dict(logger=dict(interval=60), checkpoint=dict(interval=10, max_keep_ckpts=1))
