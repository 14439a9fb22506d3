"""MultiMAE ViT-B, pretrained on IN1K with pseudo labels for 400 epochs (arXiv:2204.01678).

Numbers: the paper's appendix A and the released config, cited in the ``_base_`` files.
Run: bash tools/dist_train.sh configs/multimae/vit-b_in1k_400e.py 8
     (global batch 2048 = 256 per GPU x 8 GPUs, as in the release)
Expect: a twin of vit-b_in1k.py for shorter runs, of which the release has the config. Ours: not yet run.
"""

_base_ = './vit-b_in1k.py'

train_cfg = dict(max_epochs=400)
