"""Baseline of Figure 2 (arXiv:2206.08356): VideoMAE ViT-L, fine-tuned on iNaturalist 2018 like OmniMAE.

Recipe: that of ``omnimae/finetune/vit-l_inat18.py``.
Start: published weights of K400, 1600 epochs. The paper's are of SSv2, 800 epochs. No ViT-L of SSv2 is published. Train
       ``videomae/vit-l_ssv2.py`` with ``train_cfg.max_epochs=800`` and name its weights by OMNIMAE_CHECKPOINT. An image
       is repeated to fill a tubelet, see docs/zoo.md.
Run:  bash tools/dist_train.sh configs/baselines/videomae/vit-l_inat18.py 8
Expect: Figure 2 of the paper. Ours: not yet run.
"""

_base_ = '../../omnimae/finetune/vit-l_inat18.py'

model = dict(
    init_cfg=dict(
        checkpoint='{{$OMNIMAE_CHECKPOINT:https://huggingface.co/MCG-NJU/videomae-large/resolve/main/model.safetensors}}',
    ),
)
