"""VideoMAE V2 ViT-g, fine-tuned on HMDB51 after Kinetics-710 (arXiv:2303.16727).

Numbers: the released script. Learning rate 5e-4 per 256 videos, 24 a step, each in two crops (48 samples).
Data: python tools/prepare_dataset.py hmdb51 --root FOLDER
Run:  bash tools/dist_train.sh configs/videomae/finetune/v2_vit-g-k710_hmdb51.py 8
      (global batch 48 = 6 per GPU x 8 GPUs, as in the release;
      from other weights, theirs or ours: with OMNIMAE_CHECKPOINT=FILE in front)
Test: bash tools/dist_test.sh configs/videomae/finetune/v2_vit-g-k710_hmdb51.py CHECKPOINT 8
Expect: top-1 of 88.1 over 5 clips x 3 crops (released). Ours: not yet run.
"""

_base_ = [
    '../../_base_/default_runtime.py',
    '../../_base_/models/videomae_classifier_vit-base.py',
    '../../_base_/datasets/videomae_finetune_hmdb51.py',
    '../../_base_/schedules/videomae_finetune.py',
]

model = dict(
    _base_.classifier,
    backbone=dict(_base_.sizes.giant.backbone, drop_path_rate=0.35),
    dropout=0.5,
    init_cfg=dict(
        type='Checkpoint',
        checkpoint='{{$OMNIMAE_CHECKPOINT:work_dirs/videomae/finetune/v2_vit-g_k710/epoch_35_raw.safetensors}}',
    ),
)
train_dataloader = dict(batch_size=6, batch_sampler=dict(global_batch_size=48))
optim_wrapper = dict(optimizer=dict(lr=4.6875e-5), paramwise_cfg=dict(layer_decay=0.9))
param_scheduler = dict(end_lr=9.375e-8)
train_cfg = dict(max_epochs=15)
