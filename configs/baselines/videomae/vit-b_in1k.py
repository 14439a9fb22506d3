"""Baseline of Figure 2 (arXiv:2206.08356): VideoMAE ViT-B, fine-tuned on ImageNet-1K like OmniMAE.

Recipe: that of ``omnimae/finetune/vit-b_in1k.py``.
Start: published weights of SSv2, 800 epochs, as in the paper: MCG-NJU/videomae-base-short-ssv2 on Hugging Face.
       OMNIMAE_CHECKPOINT names others.
       An image is repeated to fill a tubelet, see docs/zoo.md.
Run:  bash tools/dist_train.sh configs/baselines/videomae/vit-b_in1k.py 8
Expect: Figure 2 of the paper. Ours: not yet run.
"""

_base_ = '../../omnimae/finetune/vit-b_in1k.py'

model = dict(
    init_cfg=dict(
        checkpoint='{{$OMNIMAE_CHECKPOINT:https://huggingface.co/MCG-NJU/videomae-base-short-ssv2/resolve/main/pytorch_model.bin}}',
    ),
)
