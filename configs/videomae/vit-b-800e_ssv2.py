"""VideoMAE ViT-B, pretrained on SSv2 for 800 epochs (arXiv:2203.12602).

Numbers: the released script. It is that of ``vit-b_ssv2.py`` except for the epochs.
Run: bash tools/dist_train.sh configs/videomae/vit-b-800e_ssv2.py 8
Hardware of the release: 64 GPUs.
Expect: top-1 of 69.6 on SSv2 after fine-tuning, 2x3 views (released).
     Ours: not yet run.
"""

_base_ = './vit-b_ssv2.py'

train_cfg = dict(max_epochs=800)
