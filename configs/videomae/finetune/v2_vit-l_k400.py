"""VideoMAE V2 ViT-L, fine-tuned on Kinetics-400 (arXiv:2303.16727).

Numbers: the released script. Learning rate 2e-3 per 256 videos, 192 a step, each in two crops (384 samples).
Data: python tools/prepare_dataset.py k400 --root FOLDER
Run:  bash tools/dist_train.sh configs/videomae/finetune/v2_vit-l_k400.py 8
      (global batch 384 = 8 per GPU x 8 GPUs x 6 accumulated micro-batches; the release had 32 GPUs;
      from other weights, theirs or ours: with OMNIMAE_CHECKPOINT=FILE in front)
Test: bash tools/dist_test.sh configs/videomae/finetune/v2_vit-l_k400.py CHECKPOINT 8
Expect: nothing published. Ours: not yet run.
"""

_base_ = [
    '../../_base_/default_runtime.py',
    '../../_base_/models/videomae_classifier_vit-base.py',
    '../../_base_/datasets/videomae_finetune_k400.py',
    '../../_base_/schedules/videomae_finetune.py',
]

model = dict(
    _base_.classifier,
    backbone=dict(_base_.sizes.large.backbone, drop_path_rate=0.2),
    init_cfg=dict(
        type='Checkpoint',
        checkpoint='{{$OMNIMAE_CHECKPOINT:work_dirs/videomae/v2_vit-l_hybrid/epoch_300_raw.safetensors}}',
    ),
)
train_dataloader = dict(batch_sampler=dict(global_batch_size=384))
optim_wrapper = dict(optimizer=dict(lr=1.5e-3))
param_scheduler = dict(end_lr=7.5e-7)
train_cfg = dict(max_epochs=35)
