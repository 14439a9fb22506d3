"""MultiMAE in small, on the demo's images, depth and class maps (arXiv:2204.01678). It shows that the method runs and
learns little.

The components of ``configs/multimae/vit-b_in1k.py`` with the sizes of ``pretrain.py``. 108 of 432 tokens are visible.
Depth and classes are stand-ins made from the images' own RGB, see ``make_maps`` in ``omnimae/synthetic/demo.py``.

Data: python tools/prepare_dataset.py demo --root data/demo
Run:  python tools/train.py configs/demo/multimae.py
Expect: not yet run to its end. The tests train two epochs of it.
"""

_base_ = ['_base_/tiny.py']

num_classes = 8
head = dict(type='CrossAttentionHead', embed_dim=64, depth=1, num_heads=4)
patches = dict(type='PatchTokenizer', patch_size=(1, 8, 8), clip_size=(1, 96, 96))

model = dict(
    type='MultiMAE',
    backbone=dict(
        type='MultiModalViT',
        **{name: _base_.backbone[name] for name in ('embed_dim', 'depth', 'num_heads')},
        tokenizers=dict(
            rgb=dict(patches, channels=3),
            depth=dict(patches, channels=1),
            semseg=dict(type='ClassMapTokenizer', num_classes=num_classes, patch_size=(1, 2, 2), clip_size=(1, 24, 24)),
        ),
    ),
    mask_generator=dict(type='DirichletMasking', num_visible=108),
    head=dict(
        rgb=dict(head, error='mse'),
        depth=dict(head, error='l1'),
        semseg=dict(head, error='cross_entropy', float32=True),
        norm_rgb=dict(head, modality='rgb', error='mse', target=dict(type='PixelTarget', normalize='patch')),
    ),
)
semseg = dict(kind='classes', stride=4, num_classes=num_classes)
train, val = (
    dict(
        type='AlignedDataset',
        root=_base_.data_root,
        modalities=dict(
            rgb=dict(folder=f'images/{split}'),
            depth=dict(folder=f'depth/images/{split}'),
            semseg=dict(semseg, folder=f'semseg/images/{split}'),
        ),
        transforms=transforms,
    )
    for split, transforms in (('train', _base_.crop), ('val', _base_.middle))
)
train_dataloader = dict(dataset=dict(sources=dict(_delete_=True, images=train)))
val_dataloader = dict(dataset=dict(sources=dict(_delete_=True, images=val)))
val_evaluator = dict(type='ReconstructionLoss')

optim_wrapper = dict(
    type='AutocastOptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, betas=(0.9, 0.95), weight_decay=0.05, fused=True),
)
param_scheduler = dict(type='WarmupCosineLR', warmup_epochs=1)
train_cfg = dict(type='EpochTrainLoop', max_epochs=20, val_interval=10)
custom_hooks = [dict(type='ReconstructionHook', interval=20)]
default_hooks = dict(logger=dict(interval=30), checkpoint=dict(interval=10, max_keep_ckpts=1))
