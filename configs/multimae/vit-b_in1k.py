"""MultiMAE ViT-B, pretrained on IN1K with pseudo labels for 1600 epochs (arXiv:2204.01678).

Numbers: the paper's appendix A and the released config, cited in the ``_base_`` files.
Run: bash tools/dist_train.sh configs/multimae/vit-b_in1k.py 8
     (global batch 2048 = 256 per GPU x 8 GPUs, as in the release)
Expect, after fine-tuning (the release's README): top-1 of 83.3 on IN1K; mIoU of 46.2 on ADE20K, 37.0 / 38.5 / 47.6 on
     Hypersim and 52.0 / 41.4 / 56.0 on NYUv2 with colours / depth / both; delta-1 of 86.4 on NYUv2 (the paper: 85.4).
     Ours: not yet run.
"""

_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/models/multimae_vit-base.py',
    '../_base_/datasets/multimae_in1k.py',
    '../_base_/schedules/multimae_1600e.py',
]
