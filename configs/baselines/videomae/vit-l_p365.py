"""Baseline of Figure 2 (arXiv:2206.08356): VideoMAE ViT-L, fine-tuned on Places365 like OmniMAE.

Recipe: that of ``omnimae/finetune/vit-l_p365.py``.
Start: published weights, pretrained on the videos of K400; those of SSv2 are to be downloaded by hand
       (OMNIMAE_CHECKPOINT names others); an image is repeated to fill a tubelet, see docs/zoo.md.
Run:  bash tools/dist_train.sh configs/baselines/videomae/vit-l_p365.py 8
Expect: Figure 2 of the paper. Ours: not yet run.
"""

_base_ = '../../omnimae/finetune/vit-l_p365.py'

model = dict(
    init_cfg=dict(
        checkpoint='{{$OMNIMAE_CHECKPOINT:https://huggingface.co/MCG-NJU/videomae-large/resolve/main/model.safetensors}}',
    ),
)
