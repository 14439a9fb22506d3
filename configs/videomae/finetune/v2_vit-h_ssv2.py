"""VideoMAE V2 ViT-H, fine-tuned on Something-Something V2 (arXiv:2303.16727).

Numbers: the released script. Learning rate 5e-4 per 256 videos, 128 a step, each in two crops (256 samples).
Data: python tools/prepare_dataset.py ssv2 --root FOLDER
Run:  bash tools/dist_train.sh configs/videomae/finetune/v2_vit-h_ssv2.py 8
      (global batch 256 = 8 per GPU x 8 GPUs x 4 accumulated micro-batches; the release had 32 GPUs;
      from other weights, theirs or ours: with OMNIMAE_CHECKPOINT=FILE in front)
Test: bash tools/dist_test.sh configs/videomae/finetune/v2_vit-h_ssv2.py CHECKPOINT 8
Expect: nothing published. Ours: not yet run.
"""

_base_ = [
    '../../_base_/default_runtime.py',
    '../../_base_/models/videomae_classifier_vit-base.py',
    '../../_base_/datasets/videomae_finetune_ssv2.py',
    '../../_base_/schedules/videomae_finetune.py',
]

model = dict(
    _base_.classifier,
    **_base_.sizes.huge,
    init_cfg=dict(
        type='Checkpoint',
        checkpoint='{{$OMNIMAE_CHECKPOINT:work_dirs/videomae/v2_vit-h_hybrid/epoch_300_raw.safetensors}}',
    ),
)
train_dataloader = dict(batch_sampler=dict(global_batch_size=256))
optim_wrapper = dict(optimizer=dict(lr=2.5e-4), paramwise_cfg=dict(layer_decay=0.8))
param_scheduler = dict(end_lr=5e-7)
train_cfg = dict(max_epochs=20)
