"""VideoMAE ViT-S, fine-tuned on Something-Something V2 (arXiv:2203.12602).

Numbers: the released script. Learning rate 1e-3 per 256 videos, 384 a step, each in two crops (768 samples).
Data: python tools/prepare_dataset.py ssv2 --root FOLDER
Run:  bash tools/dist_train.sh configs/videomae/finetune/vit-s_ssv2.py 8
      (global batch 768 = 8 per GPU x 8 GPUs x 12 accumulated micro-batches; the release had 32 GPUs;
      from other weights, theirs or ours: with OMNIMAE_CHECKPOINT=FILE in front)
Test: bash tools/dist_test.sh configs/videomae/finetune/vit-s_ssv2.py CHECKPOINT 8
Expect: top-1 of 66.8 over 2 clips x 3 crops (released). Ours: not yet run.
"""

_base_ = [
    '../../_base_/default_runtime.py',
    '../../_base_/models/videomae_classifier_vit-base.py',
    '../../_base_/datasets/videomae_finetune_ssv2.py',
    '../../_base_/schedules/videomae_finetune.py',
]

model = dict(
    _base_.classifier,
    **_base_.sizes.small,
    init_cfg=dict(
        type='Checkpoint',
        checkpoint='{{$OMNIMAE_CHECKPOINT:work_dirs/videomae/vit-s_ssv2/epoch_2400_raw.safetensors}}',
    ),
)
train_dataloader = dict(batch_sampler=dict(global_batch_size=768))
optim_wrapper = dict(optimizer=dict(lr=1.5e-3), paramwise_cfg=dict(layer_decay=0.7))
param_scheduler = dict(end_lr=1.5e-6)
train_cfg = dict(max_epochs=40)
