"""OmniMAE ViT-L, pretrained on IN1K + SSv2 for 1600 epochs (arXiv:2206.08356, Table 2).

Numbers: as ``vit-b_in1k-ssv2.py``; the decoder has 4 blocks, 512 wide (section 3.2 and B.1).
Run: bash tools/dist_train.sh configs/omnimae/vit-l_in1k-ssv2.py 8
Memory: about 20 GiB on each GPU (tools/plan.py). docs/recipes.md has sizes for GPUs of 24, 48 and 80 GB. If memory is
     short, lower train_dataloader.batch_size.image and .video or set model.backbone.grad_checkpointing and
     model.head.grad_checkpointing. The numbers stay the same.
Hardware of the paper: 128 GPUs of 32 GB (16 samples on each).
Expect: after fine-tuning, top-1 of 85.2 on IN1K, 79.6 on iNat18, 59.3 on P365, 84.0 on K400, 74.2 on SSv2 and 45.1 on
     EK100 (paper; the released weights have 85.1 on IN1K). Ours: not yet run.
"""

_base_ = './vit-b_in1k-ssv2.py'

model = _base_.sizes.large
