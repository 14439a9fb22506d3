"""OmniMAE ViT-B, pretrained on IN1K + K400 for 1600 epochs (arXiv:2206.08356, Tables 2 and 3).

Numbers: as ``vit-b_in1k-ssv2.py``, with clips of 2.0 seconds (appendix A). Copies of K400 differ in size, so the steps
of an epoch do too.
Run: bash tools/dist_train.sh configs/omnimae/vit-b_in1k-k400.py 8
Hardware of the paper: 64 GPUs of 32 GB.
Expect: not yet run; no weights of it were released.
"""

_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/models/omnimae_vit-base.py',
    '../_base_/datasets/in1k_k400.py',
    '../_base_/schedules/omnimae_1600e.py',
]
