"""OmniMAE ViT-B, pretrained on IN1K + SSv2 for 1600 epochs (arXiv:2206.08356, Table 2).

Numbers: the paper. Those that it does not state are the release's. The ``_base_`` files cite the source of each. If the
two differ, this file follows the paper. ``vit-b_in1k-ssv2_release.py`` is the release's recipe.
Run: bash tools/dist_train.sh configs/omnimae/vit-b_in1k-ssv2.py 8
     (global batch 2048 = 256 images per GPU x 8 GPUs, or 64 clips per GPU x 8 GPUs x 4 accumulated micro-batches)
     On more GPUs: --cfg-options train_dataloader.batch_size=32 (64 GPUs: nothing accumulates).
Memory: about 12 GiB on each GPU (tools/plan.py). Any sizes that divide 2048 / GPUs give the same numbers.
     docs/recipes.md has sizes for GPUs of 24, 48 and 80 GB.
Hardware of the paper: 64 GPUs of 32 GB.
Expect: after fine-tuning, top-1 of 83.0 on IN1K, 74.0 on iNat18, 58.4 on P365, 80.6 on K400, 69.5 on SSv2 and 39.3 on
     EK100 (paper; the released weights have the same on IN1K and SSv2). Ours: not yet run.
"""

_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/models/omnimae_vit-base.py',
    '../_base_/datasets/in1k_ssv2.py',
    '../_base_/schedules/omnimae_1600e.py',
]
