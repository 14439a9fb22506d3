"""MultiMAE ViT-B, fine-tuned for segmentation on NYUv2, from RGB (arXiv:2204.01678).

Numbers: the released config and code (github.com/EPFL-VILAB/MultiMAE).
Data: laid out as ``configs/_base_/datasets/segmentation_nyuv2.py`` says.
Run:  bash tools/dist_train.sh configs/multimae/finetune/vit-b_nyuv2_rgb.py 4
      (global batch 8 = 2 per GPU x 4 GPUs;
      from own weights: with OMNIMAE_CHECKPOINT=work_dirs/.../epoch_N_raw.safetensors in front)
Test: bash tools/dist_test.sh configs/multimae/finetune/vit-b_nyuv2_rgb.py CHECKPOINT 4
The release tests the epoch with the best mIoU of the validation: best_segmentation_mIoU_epoch_N_raw.safetensors. The
log has it next to the last.
Expect: mIoU 52.0 (README of the release). Ours: not yet run.
"""

_base_ = [
    '../../_base_/default_runtime.py',
    '../../_base_/models/dense_multimae_vit-base.py',
    '../../_base_/datasets/segmentation_nyuv2.py',
    '../../_base_/schedules/multimae_finetune_dense.py',
]

model = dict(
    backbone=dict(tokenizers=dict(rgb=_base_.tokenizers.rgb)),
    task=_base_.task,
)
modalities = dict(rgb=_base_.modalities.rgb, semseg=_base_.modalities.semseg)
chosen = dict(dataset=dict(sources=dict(images=dict(modalities=modalities))))
train_dataloader, val_dataloader, test_dataloader = chosen, chosen, chosen
train_cfg = dict(max_epochs=200, val_interval=20)
default_hooks = dict(checkpoint=_base_.checkpoint)
