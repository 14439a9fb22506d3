"""OmniMAE ViT-B, fine-tuned for segmentation on ADE20K.

Not of the paper (arXiv:2206.08356): MultiMAE's recipe (arXiv:2204.01678), by which it compares MAE with itself.
Data: laid out as ``configs/_base_/datasets/segmentation_ade20k.py`` says.
Run:  bash tools/dist_train.sh configs/omnimae/dense/vit-b_ade20k.py 4
      (global batch 16 = 4 per GPU x 4 GPUs;
      from own weights: with OMNIMAE_CHECKPOINT=work_dirs/.../epoch_N_raw.safetensors in front)
Test: bash tools/dist_test.sh configs/omnimae/dense/vit-b_ade20k.py CHECKPOINT 4
Expect: nothing is published; MAE's ViT-B has mIoU 46.2 by this recipe (README of MultiMAE). Ours: not yet run.
"""

_base_ = [
    '../../_base_/default_runtime.py',
    '../../_base_/models/dense_vit-base.py',
    '../../_base_/datasets/segmentation_ade20k.py',
    '../../_base_/schedules/finetune_dense.py',
]

model = dict(task=_base_.task)
train_cfg = dict(max_epochs=64)
default_hooks = dict(checkpoint=_base_.checkpoint)
