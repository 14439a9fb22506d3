"""OmniMAE ViT-B, fine-tuned to tell depth from colours on NYUv2.

Not of the paper (arXiv:2206.08356): MultiMAE's recipe (arXiv:2204.01678), by which it compares MAE with itself.
Data: laid out as ``configs/_base_/datasets/segmentation_nyuv2.py`` says; ``depth_nyuv2.py`` beside it, on the unit.
Run:  bash tools/dist_train.sh configs/omnimae/dense/vit-b_depth-nyuv2.py 2
      (global batch 128 = 64 per GPU x 2 GPUs;
      from own weights: with OMNIMAE_CHECKPOINT=work_dirs/.../epoch_N_raw.safetensors in front)
Test: bash tools/dist_test.sh configs/omnimae/dense/vit-b_depth-nyuv2.py CHECKPOINT 2
Expect: nothing is published; MAE's ViT-B has delta1 85.1 by this recipe (README of MultiMAE). Ours: not yet run.
"""

_base_ = '../../multimae/finetune/vit-b_depth-nyuv2.py'

model = dict(
    backbone=dict(
        _delete_=True, type='SpatioTemporalViT', arch='base', patch_size=(2, 16, 16), clip_size=(16, 224, 224)
    ),
    init_cfg=dict(
        checkpoint='{{$OMNIMAE_CHECKPOINT:https://dl.fbaipublicfiles.com/omnivore/omnimae_ckpts/vitb_pretrain.torch}}',
    ),
)
optim_wrapper = dict(paramwise_cfg=dict(no_decay=()))  # no global token
