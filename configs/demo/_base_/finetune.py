"""How the demo fine-tunes, from pretraining or from scratch."""

_base_ = ['tiny.py']

model = dict(
    type='Classifier',
    backbone=_base_.backbone,
    head_init_std=0.02,
    init_cfg=dict(type='Checkpoint', checkpoint='work_dirs/demo/pretrain/epoch_5_raw.safetensors'),
)
val_evaluator = dict(type='ClipAccuracy', topk=(1,))
test_evaluator = val_evaluator
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(
    type='AutocastOptimWrapper',
    optimizer=dict(type='AdamW', lr=2e-3, betas=(0.9, 0.98), weight_decay=0.05, fused=True),
    constructor='LayerDecayConstructor',
)
param_scheduler = dict(type='WarmupCosineLR', warmup_epochs=1)
train_cfg = dict(type='EpochTrainLoop', max_epochs=12, val_interval=12)
default_hooks = dict(logger=dict(interval=12), checkpoint=dict(interval=12, max_keep_ckpts=1))
