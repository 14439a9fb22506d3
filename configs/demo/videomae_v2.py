"""VideoMAE V2 in small, dual masking on the demo's videos (arXiv:2303.16727). It shows that the method runs and learns
little.

The components of ``configs/videomae/v2_vit-g_hybrid.py`` with the sizes of ``pretrain.py``. Of 288 tokens the encoder
sees 144, and the decoder predicts 144. Only those count that the encoder does not see.

Data: python tools/prepare_dataset.py demo --root data/demo
Run:  python tools/train.py configs/demo/videomae_v2.py
Expect: not yet run to its end. The tests train two epochs of it.
"""

_base_ = ['_base_/tiny.py']

model = dict(
    type='MaskedAutoencoder',
    backbone=dict(_base_.backbone, qkv_bias='qv', xavier_patch_embed=False),
    head=dict(
        type='MAEHead',
        embed_dim=64,
        depth=1,
        num_heads=4,
        qkv_bias='qv',
        tokens='decoder',
        embed_bias=False,
        xavier_embed=False,
        mask_token_std=0.02,
        mask_token_cut=True,
        pred_std=None,
        target=dict(type='PixelTarget', eps_on='deviation'),
    ),
    mask_generator=dict(
        video=dict(
            type='DualMasking',
            encoder=dict(type='TubeMasking', ratio=0.5),
            decoder=dict(type='RunningCellMasking', ratio=0.5),
        )
    ),
)
train, val = (loader.dataset.sources.videos for loader in (_base_.train_dataloader, _base_.val_dataloader))
train_dataloader = dict(dataset=dict(sources=dict(_delete_=True, videos=dict(train, replicas=4))))
val_dataloader = dict(dataset=dict(sources=dict(_delete_=True, videos=val)))
val_evaluator = dict(type='ReconstructionLoss')

optim_wrapper = dict(
    type='AutocastOptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, betas=(0.9, 0.95), weight_decay=0.05, fused=True),
    constructor='LayerDecayConstructor',
    paramwise_cfg=dict(no_decay=('mask_token',)),
)
param_scheduler = dict(type='WarmupCosineLR', warmup_epochs=1)
train_cfg = dict(type='EpochTrainLoop', max_epochs=20, val_interval=10)
custom_hooks = [dict(type='ReconstructionHook', interval=20)]
default_hooks = dict(logger=dict(interval=30), checkpoint=dict(interval=10, max_keep_ckpts=1))
