"""Linear probe of a frozen backbone on CIFAR-10, by the recipe of ``configs/omnimae/linear``, shortened.

Run: python tools/train.py configs/small/cifar10_linear.py --cfg-options model.init_cfg.checkpoint=CHECKPOINT
Expect: 42.0 %, from ``cifar10_pretrain.py`` (chance 10 %).
"""

_base_ = ['_base_/cifar10.py']

model = dict(
    type='LinearProbe',
    backbone=_base_.backbone,
    num_classes=10,
    init_cfg=dict(type='Checkpoint', checkpoint='work_dirs/small/cifar10_pretrain/epoch_50_raw.safetensors'),
)
val_evaluator = dict(type='ClipAccuracy', topk=(1,))
test_dataloader = _base_.val_dataloader
test_evaluator = val_evaluator
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(
    type='AutocastOptimWrapper',
    optimizer=dict(type='LARS', lr=6.4, momentum=0.9, weight_decay=0.0),
    constructor='LayerDecayConstructor',
)
param_scheduler = dict(type='WarmupCosineLR', warmup_epochs=1, start_lr=0.0)
train_cfg = dict(type='EpochTrainLoop', max_epochs=20, val_interval=10)
default_hooks = dict(logger=dict(interval=40), checkpoint=dict(interval=10, max_keep_ckpts=1))
