"""Fine-tuning on 10,000 CIFAR-10 images, from ``cifar10_pretrain.py`` or from scratch.

Numbers: layer decay 0.75, DropPath 0.1, label smoothing 0.1 and betas as in Table 4 of arXiv:2206.08356. There is no
mixing, which does not help short trainings of small models.

Run: python tools/train.py configs/small/cifar10_finetune.py --cfg-options model.init_cfg.checkpoint=CHECKPOINT
     python tools/train.py configs/small/cifar10_finetune.py --cfg-options model.init_cfg=None           (from scratch)
Expect: 54.1 % from ``cifar10_pretrain.py``, 49.7 % from scratch, one seed each (chance 10 %).
"""

_base_ = ['_base_/cifar10.py']

model = dict(
    type='Classifier',
    backbone=dict(_base_.backbone, drop_path_rate=0.1),
    num_classes=10,
    label_smoothing=0.1,
    head_init_std=0.01,
    init_cfg=dict(type='Checkpoint', checkpoint='work_dirs/small/cifar10_pretrain/epoch_50_raw.safetensors'),
)
train_dataloader = dict(batch_size=128, batch_sampler=dict(global_batch_size=128))
val_evaluator = dict(type='ClipAccuracy', topk=(1,))
test_dataloader = _base_.val_dataloader
test_evaluator = val_evaluator
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(
    type='AutocastOptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, betas=(0.9, 0.999), weight_decay=0.05, fused=True),
    constructor='LayerDecayConstructor',
    paramwise_cfg=dict(layer_decay=0.75, rule='paper'),
)
param_scheduler = dict(type='WarmupCosineLR', warmup_epochs=1)
train_cfg = dict(type='EpochTrainLoop', max_epochs=10, val_interval=5)
default_hooks = dict(logger=dict(interval=39), checkpoint=dict(interval=5, max_keep_ckpts=1))
