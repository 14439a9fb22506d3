"""VideoMAE ViT-B, fine-tuned on UCF101 (arXiv:2203.12602).

Numbers: the released script. Learning rate 5e-4 per 256 videos, 128 a step, each in two crops (256 samples).
Data: python tools/prepare_dataset.py ucf101 --root FOLDER
Run:  bash tools/dist_train.sh configs/videomae/finetune/vit-b_ucf101.py 8
      (global batch 256 = 8 per GPU x 8 GPUs x 4 accumulated micro-batches; the release had 8 GPUs;
      from other weights, theirs or ours: with OMNIMAE_CHECKPOINT=FILE in front)
Test: bash tools/dist_test.sh configs/videomae/finetune/vit-b_ucf101.py CHECKPOINT 8
Expect: top-1 of 91.3 over 5 clips x 3 crops (released). Ours: not yet run.
"""

_base_ = [
    '../../_base_/default_runtime.py',
    '../../_base_/models/videomae_classifier_vit-base.py',
    '../../_base_/datasets/videomae_finetune_ucf101.py',
    '../../_base_/schedules/videomae_finetune.py',
]

model = dict(
    _base_.classifier,
    backbone=dict(drop_path_rate=0.2, grad_checkpointing=True),
    dropout=0.5,
    init_cfg=dict(
        type='Checkpoint',
        checkpoint='{{$OMNIMAE_CHECKPOINT:work_dirs/videomae/vit-b_ucf101/epoch_3200_raw.safetensors}}',
    ),
)
train_dataloader = dict(batch_sampler=dict(global_batch_size=256))
optim_wrapper = dict(optimizer=dict(lr=2.5e-4), paramwise_cfg=dict(layer_decay=0.7))
param_scheduler = dict(end_lr=5e-6)
train_cfg = dict(max_epochs=100)
