"""MAE-ST in small, on the demo's videos (arXiv:2205.09113). It shows that the method runs and learns little.

The components of ``configs/mae_st/vit-l_k400_repository.py`` with the sizes of ``pretrain.py``. Each video gives two
clips from different times. Half of the 288 tokens are hidden. One frame of each tubelet is predicted.

Data: python tools/prepare_dataset.py demo --root data/demo
Run:  python tools/train.py configs/demo/mae_st.py
Expect: not yet run to its end. The tests train two epochs of it.
"""

_base_ = ['_base_/tiny.py']

mean, std = (0.45, 0.45, 0.45), (0.225, 0.225, 0.225)

model = dict(
    type='MaskedAutoencoder',
    data_preprocessor=dict(type='ClipPreprocessor', mean=mean, std=std),
    backbone=dict(_base_.backbone, positions='separable', cls_token=True, separate_qkv_init=True),
    head=dict(
        type='MAEHead',
        embed_dim=64,
        depth=1,
        num_heads=4,
        qkv_bias=True,
        positions='separable',
        tokens='decoder',
        cls_token=True,
        separate_qkv_init=True,
        mask_token_std=0.02,
        pred_std=None,
        target=dict(type='PixelTarget', normalize='patch', frames='spread', mean=mean, std=std),
    ),
    mask_generator=dict(video=dict(type='RandomMasking', ratio=0.5, round_down='visible')),
)
train, val = (loader.dataset.sources.videos for loader in (_base_.train_dataloader, _base_.val_dataloader))
train = dict(train, clip_seconds=1.0, replicas=2, new_clips=True)
train_dataloader = dict(dataset=dict(sources=dict(_delete_=True, videos=train)))
val_dataloader = dict(dataset=dict(sources=dict(_delete_=True, videos=dict(val, clip_seconds=1.0))))
val_evaluator = dict(type='ReconstructionLoss')

optim_wrapper = dict(
    type='AutocastOptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, betas=(0.9, 0.95), weight_decay=0.05, fused=True),
    constructor='LayerDecayConstructor',
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = dict(type='WarmupCosineLR', warmup_epochs=1)
train_cfg = dict(type='EpochTrainLoop', max_epochs=20, val_interval=10)
custom_hooks = [dict(type='ReconstructionHook', interval=20)]
default_hooks = dict(logger=dict(interval=30), checkpoint=dict(interval=10, max_keep_ckpts=1))
