"""MAE in small, on the demo's images (arXiv:2111.06377). It shows that the method runs and learns little.

The components of ``configs/mae/vit-b_in1k.py`` with the sizes of ``pretrain.py``. Half of the 144 tokens are hidden.

Data: python tools/prepare_dataset.py demo --root data/demo
Run:  python tools/train.py configs/demo/mae.py
Expect: not yet run to its end. The tests train two epochs of it.
"""

_base_ = ['_base_/tiny.py']

mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

model = dict(
    type='MaskedAutoencoder',
    data_preprocessor=dict(type='ClipPreprocessor', mean=mean, std=std),
    backbone=dict(_base_.backbone, patch_size=(1, 8, 8), clip_size=(1, 96, 96), positions='sincos2d', cls_token=True),
    head=dict(
        type='MAEHead',
        embed_dim=64,
        depth=1,
        num_heads=4,
        qkv_bias=True,
        positions='sincos2d',
        tokens='decoder',
        mask_token_std=0.02,
        pred_std=None,
        target=dict(type='PixelTarget', normalize='patch', mean=mean, std=std),
    ),
    mask_generator=dict(image=dict(type='RandomMasking', ratio=0.5)),
)
train, val = (loader.dataset.sources.images for loader in (_base_.train_dataloader, _base_.val_dataloader))
train_dataloader = dict(dataset=dict(sources=dict(_delete_=True, images=train)))
val_dataloader = dict(dataset=dict(sources=dict(_delete_=True, images=val)))
val_evaluator = dict(type='ReconstructionLoss')

optim_wrapper = dict(
    type='AutocastOptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, betas=(0.9, 0.95), weight_decay=0.05, fused=True),
    constructor='LayerDecayConstructor',
)
param_scheduler = dict(type='WarmupCosineLR', warmup_epochs=1)
train_cfg = dict(type='EpochTrainLoop', max_epochs=20, val_interval=10)
custom_hooks = [dict(type='ReconstructionHook', interval=20)]
default_hooks = dict(logger=dict(interval=30), checkpoint=dict(interval=10, max_keep_ckpts=1))
