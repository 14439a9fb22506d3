"""VideoMAE V2 ViT-B, fine-tuned on Something-Something V2 (arXiv:2303.16727).

Numbers: the released script. Learning rate 2e-3 per 256 videos, 256 a step, each in two crops (512 samples).
Data: python tools/prepare_dataset.py ssv2 --root FOLDER
Run:  bash tools/dist_train.sh configs/videomae/finetune/v2_vit-b_ssv2.py 8
      (global batch 512 = 8 per GPU x 8 GPUs x 8 accumulated micro-batches; the release had 16 GPUs;
      from other weights, theirs or ours: with OMNIMAE_CHECKPOINT=FILE in front)
Test: bash tools/dist_test.sh configs/videomae/finetune/v2_vit-b_ssv2.py CHECKPOINT 8
Expect: nothing published without distillation. Ours: not yet run.
"""

_base_ = [
    '../../_base_/default_runtime.py',
    '../../_base_/models/videomae_classifier_vit-base.py',
    '../../_base_/datasets/videomae_finetune_ssv2.py',
    '../../_base_/schedules/videomae_finetune.py',
]

model = dict(
    _base_.classifier,
    init_cfg=dict(
        type='Checkpoint',
        checkpoint='{{$OMNIMAE_CHECKPOINT:work_dirs/videomae/v2_vit-b_hybrid/epoch_200_raw.safetensors}}',
    ),
)
optim_wrapper = dict(optimizer=dict(lr=2e-3), paramwise_cfg=dict(layer_decay=0.65))
param_scheduler = dict(end_lr=1e-6)
train_cfg = dict(max_epochs=25)
