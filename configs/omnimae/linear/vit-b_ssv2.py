r"""Linear probe on SSv2, as ``vit-b_in1k.py``, on clips.

Nobody published a recipe for clips. This is MAE's (arXiv:2111.06377, appendix A) with a batch size of 1024, since SSv2
has an eighth of the samples. So the learning rate is 0.1 x 1024 / 256. There is no flip, since it would turn "from left
to right" into another class. Tests take 5 clips x 3 crops, validation takes one.

Run: bash tools/dist_train.sh configs/omnimae/linear/vit-b_ssv2.py 8
     (global batch 1024 = 64 per GPU x 8 GPUs x 2 accumulated micro-batches)
     bash tools/dist_test.sh configs/omnimae/linear/vit-b_ssv2.py \
         work_dirs/omnimae/linear/vit-b_ssv2/epoch_90_raw.safetensors 8
Not yet run.
"""

_base_ = [
    '../../_base_/default_runtime.py',
    '../../_base_/models/omnimae_vit-base.py',
    '../../_base_/datasets/ssv2_frozen.py',
    '../../_base_/schedules/linear_90e.py',
]

model = dict(
    _delete_=True,
    type='LinearProbe',
    data_preprocessor=_base_.model.data_preprocessor,
    backbone=_base_.model.backbone,
    num_classes=_base_.num_classes,
    init_cfg=dict(
        type='Checkpoint',
        checkpoint='{{$OMNIMAE_CHECKPOINT:https://dl.fbaipublicfiles.com/omnivore/omnimae_ckpts/vitb_pretrain.torch}}',
    ),
)
train_dataloader = dict(
    batch_size=64,
    num_workers=10,
    persistent_workers=True,
    pin_memory=True,
    dataset=dict(
        type='MixedDataset',
        sources=dict(videos=dict(_base_.bank, transforms=[dict(type='RandomResizedCrop', size=_base_.size)])),
    ),
    sampler=dict(type='MixedSampler'),
    batch_sampler=dict(type='MixedBatchSampler', global_batch_size=1024),
    collate_fn=dict(type='collate_clips'),
)
val_dataloader = _base_.test_dataloader
val_evaluator = _base_.test_evaluator
val_cfg = dict(type='ValLoop')
views = [dict(type='ResizeShort', size=_base_.size), dict(type='ThreeCrop', size=_base_.size)]
test_dataloader = dict(
    batch_size=4,
    dataset=dict(sources=dict(videos=dict(_base_.queries, num_clips=5, transforms=views))),
)
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(optimizer=dict(lr=0.4))
default_hooks = dict(checkpoint=dict(interval=10, max_keep_ckpts=1))
