"""MAE-ST ViT-H, fine-tuned on Kinetics-400 (arXiv:2205.09113).

Numbers: SlowFast's k400_VIT_H_16x4_FT. Learning rate 3e-4 per 16 videos, 256 a step, each once.
Data: python tools/prepare_dataset.py k400 --root FOLDER
Run:  bash tools/dist_train.sh configs/mae_st/finetune/vit-h_k400.py 8
      (global batch 256 = 8 per GPU x 8 GPUs x 4 accumulated micro-batches;
      from other weights, theirs or ours: with OMNIMAE_CHECKPOINT=FILE in front)
Test: bash tools/dist_test.sh configs/mae_st/finetune/vit-h_k400.py CHECKPOINT 8
Expect: top-1 of 85.1 over 7 clips x 3 crops (released). Ours: not yet run.
"""

_base_ = [
    '../../_base_/default_runtime.py',
    '../../_base_/models/mae_st_classifier_vit-base.py',
    '../../_base_/datasets/mae_st_finetune_k400.py',
    '../../_base_/schedules/mae_st_finetune.py',
]

model = dict(_base_.classifier, **_base_.sizes.huge)
train_dataloader = dict(
    dataset=dict(sources=dict(videos=dict(replicas=1))),
    batch_sampler=dict(global_batch_size=256),
)
optim_wrapper = dict(optimizer=dict(lr=4.8e-3), paramwise_cfg=dict(layer_decay=0.8))
param_scheduler = dict(start_lr=1.6e-7, end_lr=1.6e-5)
train_cfg = dict(max_epochs=75)
