"""VideoMAE V2 ViT-B, fine-tuned on Kinetics-710 (arXiv:2303.16727).

Numbers: the released script. Learning rate 7e-4 per 256 videos, 512 a step, each in two crops (1024 samples).
Data: python tools/prepare_dataset.py k710 --root FOLDER
Run:  bash tools/dist_train.sh configs/videomae/finetune/v2_vit-b_k710.py 8
      (global batch 1024 = 8 per GPU x 8 GPUs x 16 accumulated micro-batches; the release had 32 GPUs;
      from other weights, theirs or ours: with OMNIMAE_CHECKPOINT=FILE in front)
Test: bash tools/dist_test.sh configs/videomae/finetune/v2_vit-b_k710.py CHECKPOINT 8
Expect: nothing published without distillation. Ours: not yet run.
"""

_base_ = [
    '../../_base_/default_runtime.py',
    '../../_base_/models/videomae_classifier_vit-base.py',
    '../../_base_/datasets/videomae_finetune_k710.py',
    '../../_base_/schedules/videomae_finetune.py',
]

model = dict(
    _base_.classifier,
    init_cfg=dict(
        type='Checkpoint',
        checkpoint='{{$OMNIMAE_CHECKPOINT:work_dirs/videomae/v2_vit-b_hybrid/epoch_200_raw.safetensors}}',
    ),
)
train_dataloader = dict(batch_sampler=dict(global_batch_size=1024))
optim_wrapper = dict(optimizer=dict(lr=1.4e-3))
param_scheduler = dict(end_lr=2e-6)
train_cfg = dict(max_epochs=90)
