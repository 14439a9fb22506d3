"""VideoMAE ViT-L, fine-tuned on Kinetics-400 (arXiv:2203.12602).

Numbers: the released script. Learning rate 2e-3 per 256 videos, 128 a step, each in two crops (256 samples).
Data: python tools/prepare_dataset.py k400 --root FOLDER
Run:  bash tools/dist_train.sh configs/videomae/finetune/vit-l_k400.py 8
      (global batch 256 = 8 per GPU x 8 GPUs x 4 accumulated micro-batches; the release had 64 GPUs;
      from other weights, theirs or ours: with OMNIMAE_CHECKPOINT=FILE in front)
Test: bash tools/dist_test.sh configs/videomae/finetune/vit-l_k400.py CHECKPOINT 8
Expect: top-1 of 85.2 over 5 clips x 3 crops (released). Ours: not yet run.
"""

_base_ = [
    '../../_base_/default_runtime.py',
    '../../_base_/models/videomae_classifier_vit-base.py',
    '../../_base_/datasets/videomae_finetune_k400.py',
    '../../_base_/schedules/videomae_finetune.py',
]

model = dict(
    _base_.classifier,
    **_base_.sizes.large,
    init_cfg=dict(
        type='Checkpoint',
        checkpoint='{{$OMNIMAE_CHECKPOINT:work_dirs/videomae/vit-l_k400/epoch_1600_raw.safetensors}}',
    ),
)
train_dataloader = dict(batch_sampler=dict(global_batch_size=256))
optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = dict(end_lr=5e-7)
train_cfg = dict(max_epochs=35)
