"""OmniMAE in small, one ViT on the demo's photographs and videos, in under four minutes on 2 CPU cores.

It has the components of ``configs/omnimae/vit-b_in1k-ssv2_cross.py``. These settings differ, for so small a model:

* Targets are plain pixels, so that its pictures have colours.
* 75 % of an image and 90 % of a clip are hidden, and a step predicts a quarter of that.
* Eight batches of images come to one of clips, as a step of images costs less. Two of the eight are of whole
  photographs, so that a person recognises what its pictures show.

Data: python tools/prepare_dataset.py demo --root data/demo
Run:  python tools/train.py configs/demo/pretrain.py
Expect: seeds 0, 1, 2: a held-out loss of 0.44 to 0.45 on images, 0.50 to 0.51 on videos. ``finetune_images.py`` and
     ``finetune_videos.py`` have the accuracy.
"""

_base_ = ['_base_/tiny.py']

mean, std = (0.45, 0.45, 0.45), (0.225, 0.225, 0.225)

model = dict(
    type='MaskedAutoencoder',
    backbone=_base_.backbone,
    head=dict(
        type='CrossMAEHead',
        embed_dim=64,
        depth=1,
        num_heads=4,
        qkv_bias=False,
        target=dict(type='PixelTarget', normalize=None, mean=mean, std=std),
    ),
    mask_generator=dict(image=dict(type='RandomMasking', ratio=0.75), video=dict(type='RandomMasking', ratio=0.9)),
    decode_ratio=0.25,
)
train_dataloader = dict(
    dataset=dict(
        sources=dict(
            videos=dict(replicas=4),
            whole=dict(_base_.image, root=f'{_base_.data_root}/whole/train', transforms=_base_.crop),
        )
    ),
    sampler=dict(repeats=dict(images=6.0, videos=0.5, whole=8.0)),
)
val_evaluator = dict(type='ReconstructionLoss')

optim_wrapper = dict(
    type='AutocastOptimWrapper',
    optimizer=dict(type='AdamW', lr=2e-3, betas=(0.9, 0.95), weight_decay=0.05, fused=True),
    constructor='LayerDecayConstructor',
)
param_scheduler = dict(type='WarmupCosineLR', warmup_epochs=1)
train_cfg = dict(type='EpochTrainLoop', max_epochs=5, val_interval=5)
custom_hooks = [dict(type='ReconstructionHook', interval=5)]
default_hooks = dict(logger=dict(interval=60), checkpoint=dict(interval=5, max_keep_ckpts=1))
