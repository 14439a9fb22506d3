"""MultiMAE ViT-L, pretrained on IN1K with pseudo labels for 1600 epochs (arXiv:2204.01678).

Numbers: the paper's appendix A and the released config, cited in the ``_base_`` files.
Run: bash tools/dist_train.sh configs/multimae/vit-l_in1k.py 8
     (global batch 2048 = 256 per GPU x 8 GPUs, as in the release)
Expect: there is neither a recipe nor a figure for this size; it is that of ViT-B. Ours: not yet run.
"""

_base_ = './vit-b_in1k.py'

model = _base_.sizes.large
