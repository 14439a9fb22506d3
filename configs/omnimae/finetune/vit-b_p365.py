"""OmniMAE ViT-B, fine-tuned on Places365 (arXiv:2206.08356).

Numbers: B.2, Table 4. The release has no config of this run.
Data: python tools/prepare_dataset.py p365 --root FOLDER
Run:  bash tools/dist_train.sh configs/omnimae/finetune/vit-b_p365.py 8
      (global batch 1024 = 32 per GPU x 8 GPUs x 4 accumulated micro-batches;
      from own weights: with OMNIMAE_CHECKPOINT=work_dirs/.../epoch_N_raw.safetensors in front)
Test: bash tools/dist_test.sh configs/omnimae/finetune/vit-b_p365.py CHECKPOINT 8
The paper reports the best test accuracy of all epochs (B.2). The log has it next to the last, with its epoch. Its
weights are best_accuracy_top1_epoch_N_ema.safetensors.
Expect: top-1 58.4 (Table 2). Ours: not yet run.
"""

_base_ = [
    '../../_base_/default_runtime.py',
    '../../_base_/models/classifier_vit-base.py',
    '../../_base_/datasets/finetune_p365.py',
    '../../_base_/schedules/finetune.py',
]

model = _base_.classifier
optim_wrapper = dict(optimizer=dict(lr=2e-3, weight_decay=1e-4), paramwise_cfg=dict(layer_decay=0.65))
train_cfg = dict(max_epochs=60)
default_hooks = dict(checkpoint=_base_.checkpoint)
