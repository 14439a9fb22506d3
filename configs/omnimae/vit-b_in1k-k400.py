"""OmniMAE ViT-B, pretrained on IN1K + K400 for 1600 epochs (arXiv:2206.08356, Table 2).

Numbers: as ``vit-b_in1k-ssv2.py``. B.1 has one recipe for both. Copies of K400 differ in size, so the steps of an epoch
do too.
Run: bash tools/dist_train.sh configs/omnimae/vit-b_in1k-k400.py 8
Hardware of the paper: 64 GPUs of 32 GB.
Expect: after fine-tuning, top-1 of 82.9 on IN1K, 74.2 on iNat18, 58.5 on P365, 80.8 on K400, 69.0 on SSv2 and 40.3 on
     EK100 (paper; no weights of it were released). Ours: not yet run.
"""

_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/models/omnimae_vit-base.py',
    '../_base_/datasets/in1k_k400.py',
    '../_base_/schedules/omnimae_1600e.py',
]
