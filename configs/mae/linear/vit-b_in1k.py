r"""Linear probe of MAE ViT-B on IN1K, one linear layer on its frozen class token (arXiv:2111.06377).

Recipe: appendix A and the released code (github.com/facebookresearch/mae). Tests take the centre crop of a short side
     of 256. See ``_base_/schedules/linear_90e.py``. The backbone is the released one, or the one in the file that
     OMNIMAE_CHECKPOINT names.
Run: bash tools/dist_train.sh configs/mae/linear/vit-b_in1k.py 8
     (global batch 16384 = 512 per GPU x 8 GPUs x 4 accumulated micro-batches)
     bash tools/dist_test.sh configs/mae/linear/vit-b_in1k.py \
         work_dirs/mae/linear/vit-b_in1k/epoch_90_raw.safetensors 8
Expect: top-1 of 67.8 (released). Ours: not yet run.
"""

_base_ = [
    '../../_base_/default_runtime.py',
    '../../_base_/models/mae_vit-base.py',
    '../../_base_/datasets/linear_in1k.py',
    '../../_base_/schedules/linear_90e.py',
]

model = dict(
    _delete_=True,
    type='LinearProbe',
    data_preprocessor=_base_.model.data_preprocessor,
    backbone=dict(_base_.model.backbone, pool='cls'),
    num_classes=_base_.num_classes,
    init_cfg=dict(
        type='Checkpoint',
        checkpoint='{{$OMNIMAE_CHECKPOINT:https://dl.fbaipublicfiles.com/mae/pretrain/mae_pretrain_vit_base.pth}}',
    ),
)
middle = [dict(type='ResizeShort', size=256, interpolation='bicubic'), dict(type='CenterCrop', size=_base_.size)]
val_dataloader = dict(dataset=dict(sources=dict(images=dict(transforms=middle))))
test_dataloader = val_dataloader
default_hooks = dict(checkpoint=dict(interval=10, max_keep_ckpts=1))
