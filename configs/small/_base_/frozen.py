"""How the small experiments evaluate a frozen backbone, by the recipe of ``configs/omnimae/linear``, shortened.

LARS changes the weights by lr / 1000 of their norm a step. The high learning rate makes up for the few steps.
"""

_base_ = ['mixed.py']

model = dict(
    type='LinearProbe',
    backbone=_base_.backbone,
    init_cfg=dict(type='Checkpoint', checkpoint='work_dirs/small/pretrain/joint/epoch_30_raw.safetensors'),
)
val_evaluator = dict(type='ClipAccuracy', topk=(1,))
test_evaluator = val_evaluator
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(
    type='AutocastOptimWrapper',
    optimizer=dict(type='LARS', lr=20.0, momentum=0.9, weight_decay=0.0),
    constructor='LayerDecayConstructor',
)
param_scheduler = dict(type='WarmupCosineLR', warmup_epochs=1, start_lr=0.0)
train_cfg = dict(type='EpochTrainLoop', max_epochs=3, val_interval=3)
default_hooks = dict(logger=dict(interval=250), checkpoint=dict(interval=1, max_keep_ckpts=1))
