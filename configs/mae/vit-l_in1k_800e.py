"""MAE ViT-L, pretrained on IN1K for 800 epochs, by the command of the released code (github.com/facebookresearch/mae).

Numbers: its PRETRAIN.md. As ``vit-l_in1k.py`` except for the epochs. The baseline of OmniMAE's Figure 2 starts from it.
Run: bash tools/dist_train.sh configs/mae/vit-l_in1k_800e.py 8
     (global batch 4096 = 64 per GPU x 8 GPUs x 8 accumulated micro-batches; the release has 64 GPUs)
Expect: top-1 of 85.5 on IN1K after fine-tuning (PRETRAIN.md of the release). Ours: not yet run.
"""

_base_ = './vit-l_in1k.py'

train_cfg = dict(max_epochs=800)
