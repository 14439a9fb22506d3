"""OmniMAE ViT-H, pretrained on IN1K + SSv2 for 1600 epochs (arXiv:2206.08356, Table 2).

Numbers: as ``vit-b_in1k-ssv2.py``. The decoder has 8 blocks of width 512 (section 3.2 and B.1).
Run: bash tools/dist_train.sh configs/omnimae/vit-h_in1k-ssv2.py 8
Memory: about 40 GiB on each GPU (tools/plan.py). docs/recipes.md has sizes for GPUs of 24, 48 and 80 GB. If memory is
     short, lower train_dataloader.batch_size.image and .video or set model.backbone.grad_checkpointing and
     model.head.grad_checkpointing. The numbers stay the same.
Hardware of the paper: 128 GPUs of 32 GB (16 samples on each).
Expect: after fine-tuning, top-1 of 86.5 on IN1K, 83.0 on iNat18, 60.1 on P365, 84.8 on K400, 75.3 on SSv2 and 47.8 on
     EK100 (paper; its later abstract has 86.6 on IN1K and 75.5 on SSv2). Ours: not yet run.
"""

_base_ = './vit-b_in1k-ssv2.py'

model = _base_.sizes.huge
