"""VideoMAE ViT-B, pretrained on K400 for 800 epochs (arXiv:2203.12602).

Numbers: the released script. It is that of ``vit-b_k400.py`` except for the epochs.
Run: bash tools/dist_train.sh configs/videomae/vit-b-800e_k400.py 8
Hardware of the release: 64 GPUs.
Expect: top-1 of 80.0 on K400 after fine-tuning, 5x3 views (released; 81.0 with two crops a clip, of which there is no
     script).
     Ours: not yet run.
"""

_base_ = './vit-b_k400.py'

train_cfg = dict(max_epochs=800)
