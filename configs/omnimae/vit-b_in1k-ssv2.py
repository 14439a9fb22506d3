"""OmniMAE ViT-B, pretrained on IN1K + SSv2 for 1600 epochs (arXiv:2206.08356, Table 2).

Numbers: the paper, with those of the release where it is silent; the source of each stands in the ``_base_`` file that
holds it. Where the two differ this file follows the paper; ``vit-b_in1k-ssv2_release.py`` is the release's recipe.
Run: bash tools/dist_train.sh configs/omnimae/vit-b_in1k-ssv2.py 8
     (global batch 2048 = 32 per GPU x 8 GPUs x 8 accumulated micro-batches; on 64 GPUs nothing accumulates)
Hardware of the paper: 64 GPUs of 32 GB. On 8 of that size lower train_dataloader.batch_size if memory is short; any
     size whose multiple is 2048 / GPUs gives the same numbers.
Expect: after fine-tuning, top-1 of 83.0 on IN1K, 74.0 on iNat18, 58.4 on P365, 80.6 on K400, 69.5 on SSv2 and 39.3 on
     EK100 (paper; the released weights have the same on IN1K and SSv2). Ours: not yet run.
"""

_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/models/omnimae_vit-base.py',
    '../_base_/datasets/in1k_ssv2.py',
    '../_base_/schedules/omnimae_1600e.py',
]
