"""VideoMAE ViT-H, fine-tuned on Kinetics-400 (arXiv:2203.12602).

Numbers: the released script. Learning rate 1e-3 per 256 videos, 512 a step, each in two crops (1024 samples).
Data: python tools/prepare_dataset.py k400 --root FOLDER
Run:  bash tools/dist_train.sh configs/videomae/finetune/vit-h_k400.py 8
      (global batch 1024 = 8 per GPU x 8 GPUs x 16 accumulated micro-batches; the release had 64 GPUs;
      from other weights, theirs or ours: with OMNIMAE_CHECKPOINT=FILE in front)
Test: bash tools/dist_test.sh configs/videomae/finetune/vit-h_k400.py CHECKPOINT 8
Expect: top-1 of 86.6 over 5 clips x 3 crops (released). Ours: not yet run.
"""

_base_ = [
    '../../_base_/default_runtime.py',
    '../../_base_/models/videomae_classifier_vit-base.py',
    '../../_base_/datasets/videomae_finetune_k400.py',
    '../../_base_/schedules/videomae_finetune.py',
]

model = dict(
    _base_.classifier,
    backbone=dict(_base_.sizes.huge.backbone, grad_checkpointing=True),
    dropout=0.5,
    init_cfg=dict(
        type='Checkpoint',
        checkpoint='{{$OMNIMAE_CHECKPOINT:work_dirs/videomae/vit-h_k400/epoch_1600_raw.safetensors}}',
    ),
)
train_dataloader = dict(batch_sampler=dict(global_batch_size=1024))
optim_wrapper = dict(optimizer=dict(lr=2e-3))
param_scheduler = dict(end_lr=2e-5)
train_cfg = dict(max_epochs=50)
