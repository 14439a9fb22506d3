"""How the demo evaluates a frozen backbone.

Recipe: that of ``configs/omnimae/linear``, shortened. LARS changes the weights by lr / 1000 of their norm a step. The
high learning rate makes up for the few steps.
"""

_base_ = ['tiny.py']

model = dict(
    type='LinearProbe',
    backbone=_base_.backbone,
    init_cfg=dict(type='Checkpoint', checkpoint='work_dirs/demo/pretrain/epoch_5_raw.safetensors'),
)
val_evaluator = dict(type='ClipAccuracy', topk=(1,))
test_evaluator = val_evaluator
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(
    type='AutocastOptimWrapper',
    optimizer=dict(type='LARS', lr=50.0, momentum=0.9, weight_decay=0.0),
    constructor='LayerDecayConstructor',
)
param_scheduler = dict(type='WarmupCosineLR', warmup_epochs=1, start_lr=0.0)
train_cfg = dict(type='EpochTrainLoop', max_epochs=8, val_interval=8)
default_hooks = dict(logger=dict(interval=24), checkpoint=dict(interval=8, max_keep_ckpts=1))
