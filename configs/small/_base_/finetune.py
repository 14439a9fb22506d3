"""How the small experiments fine-tune, from any pretraining or from scratch, with one light recipe for all."""

_base_ = ['mixed.py']

model = dict(
    type='Classifier',
    backbone=_base_.backbone,
    head_init_std=0.02,
    init_cfg=dict(type='Checkpoint', checkpoint='work_dirs/small/pretrain/joint/epoch_30_raw.safetensors'),
)
val_evaluator = dict(type='ClipAccuracy', topk=(1,))
test_evaluator = val_evaluator
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(
    type='AutocastOptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, betas=(0.9, 0.98), weight_decay=0.05, fused=True),
    constructor='LayerDecayConstructor',
)
param_scheduler = dict(type='WarmupCosineLR', warmup_epochs=1)
train_cfg = dict(type='EpochTrainLoop', max_epochs=3, val_interval=3)
default_hooks = dict(logger=dict(interval=250), checkpoint=dict(interval=1, max_keep_ckpts=1))
