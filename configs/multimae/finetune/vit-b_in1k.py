"""MultiMAE ViT-B, fine-tuned on ImageNet-1K from RGB (arXiv:2204.01678).

Numbers: the released config and code (github.com/EPFL-VILAB/MultiMAE). 5e-4 per 256 images, mean over all tokens, the
     global one too, no erasing, no EMA of weights. Its config would give the head small initial weights, but its code
     draws them again by Xavier's rule. So does ours.
Data: python tools/prepare_dataset.py in1k --root FOLDER
Run:  bash tools/dist_train.sh configs/multimae/finetune/vit-b_in1k.py 8
      (global batch 1024 = 32 per GPU x 8 GPUs x 4 accumulated micro-batches, of 128 x 8 in the release;
      from own weights: with OMNIMAE_CHECKPOINT=work_dirs/.../epoch_N_raw.safetensors in front)
Test: bash tools/dist_test.sh configs/multimae/finetune/vit-b_in1k.py CHECKPOINT 8
The release logs and keeps the best accuracy of all epochs. The log has it next to the last, with its epoch. Its weights
are best_accuracy_top1_epoch_N_raw.safetensors.
Expect: top-1 83.3 (README of the release). Ours: not yet run.
"""

_base_ = [
    '../../_base_/default_runtime.py',
    '../../_base_/models/dense_multimae_vit-base.py',
    '../../_base_/datasets/mae_finetune_in1k.py',
    '../../_base_/schedules/finetune.py',
]

model = dict(
    _delete_=True,
    type='Classifier',
    data_preprocessor=dict(
        type='ClipPreprocessor',
        erasing=dict(_base_.classifier.data_preprocessor.erasing, prob=0.0),
        mixing=dict(type='MixupCutMix', mixup_alpha=0.8, cutmix_alpha=1.0, switch_prob=0.5),
    ),
    backbone=dict(_base_.model.backbone, tokenizers=dict(rgb=_base_.tokenizers.rgb)),
    num_classes=_base_.classifier.num_classes,
    label_smoothing=0.1,
    head_init_std=None,  # Xavier's rule, instead of that of the data
    init_cfg=_base_.model.init_cfg,
)
optim_wrapper = dict(
    optimizer=dict(lr=2e-3, weight_decay=0.05), paramwise_cfg=dict(layer_decay=0.65, no_decay=('global_tokens',))
)
param_scheduler = dict(warmup_epochs=5, start_lr=0.0, peak_in_warmup=True)
train_cfg = dict(max_epochs=100)
default_hooks = dict(checkpoint=_base_.checkpoint)
