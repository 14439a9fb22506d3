"""Baseline of Figure 2 (arXiv:2206.08356): MAE ViT-B, fine-tuned on EPIC-Kitchens-100 like OmniMAE.

Recipe: that of ``omnimae/finetune/vit-b_ek100.py``.
Start: published weights of IN1K, 1600 epochs. The paper trained MAE's released code for 800 epochs. Those weights were
       not published. Train ``mae/vit-b_in1k_800e.py`` and name them by OMNIMAE_CHECKPOINT. Kernels are inflated over
       the tubelet, see docs/zoo.md.
Run:  bash tools/dist_train.sh configs/baselines/mae/vit-b_ek100.py 8
Expect: Figure 2 of the paper. Ours: not yet run.
"""

_base_ = '../../omnimae/finetune/vit-b_ek100.py'

model = dict(
    init_cfg=dict(
        checkpoint='{{$OMNIMAE_CHECKPOINT:https://dl.fbaipublicfiles.com/mae/pretrain/mae_pretrain_vit_base.pth}}',
    ),
)
