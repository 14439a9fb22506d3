"""OmniMAE ViT-H, fine-tuned on iNaturalist 2018 (arXiv:2206.08356).

Numbers: B.2, Table 4. The release has no config of this run.
Data: python tools/prepare_dataset.py inat18 --root FOLDER
Run:  bash tools/dist_train.sh configs/omnimae/finetune/vit-h_inat18.py 8
      (global batch 1024 = 32 per GPU x 8 GPUs x 4 accumulated micro-batches;
      from own weights: with OMNIMAE_CHECKPOINT=work_dirs/.../epoch_N_raw.safetensors in front)
Test: bash tools/dist_test.sh configs/omnimae/finetune/vit-h_inat18.py CHECKPOINT 8
The paper reports the best test accuracy of all epochs (B.2). The log has it next to the last, with its epoch. Its
weights are best_accuracy_top1_epoch_N_ema.safetensors.
Expect: top-1 83.0 (Table 2). Ours: not yet run.
"""

_base_ = './vit-b_inat18.py'

model = _base_.sizes.huge
optim_wrapper = dict(optimizer=dict(lr=2e-3, weight_decay=0.05), paramwise_cfg=dict(layer_decay=0.75))
train_cfg = dict(max_epochs=100)
