"""A model that draws: images and clips of 64x64 pixels from the demo's photographs, plain pixels as targets.

The target is that of the paper's visualisation model (arXiv:2206.08356, B.4). An image has 64 tokens, a clip of 8
frames 256. 75 % and 90 % are hidden. Held-out images are other views of the same photographs.

Data: python tools/prepare_dataset.py demo --root data/demo
Run:  python tools/train.py configs/small/pictures.py
      python benchmarks/draw_ratios.py configs/small/pictures.py CHECKPOINT --seen FILE... --unseen FILE... --out-dir D
Expect: pictures like those of docs/evidence_details.md, which are of older demo data with twelve photographs.
"""

_base_ = ['../demo/_base_/tiny.py']

size, num_frames = 64, 8
crop = [dict(type='RandomResizedCrop', size=size, scale=(0.5, 1.0))]
middle = [dict(type='ResizeShort', size=size), dict(type='CenterCrop', size=size)]

model = dict(
    type='MaskedAutoencoder',
    backbone=dict(_base_.backbone, patch_size=(2, 8, 8), clip_size=(num_frames, size, size)),
    head=dict(
        type='MAEHead',
        embed_dim=96,
        depth=2,
        num_heads=4,
        qkv_bias=False,
        target=dict(type='PixelTarget', normalize=None),
    ),
    mask_generator=dict(image=dict(type='RandomMasking', ratio=0.75), video=dict(type='RandomMasking', ratio=0.9)),
)
train_dataloader = dict(
    batch_size=16,
    num_workers=1,
    dataset=dict(
        sources=dict(images=dict(transforms=crop), videos=dict(num_frames=num_frames, transforms=crop, replicas=4))
    ),
    batch_sampler=dict(global_batch_size=16),
    sampler=dict(repeats=dict(images=2.5, videos=0.75)),
)
val_dataloader = dict(
    dataset=dict(sources=dict(images=dict(transforms=middle), videos=dict(num_frames=num_frames, transforms=middle)))
)
val_evaluator = dict(type='ReconstructionLoss')

optim_wrapper = dict(
    type='AutocastOptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, betas=(0.9, 0.95), weight_decay=0.05, fused=True),
    constructor='LayerDecayConstructor',
)
param_scheduler = dict(type='WarmupCosineLR', warmup_epochs=2)
train_cfg = dict(type='EpochTrainLoop', max_epochs=26, val_interval=26)
default_hooks = dict(logger=dict(interval=50), checkpoint=dict(interval=1, max_keep_ckpts=1))
