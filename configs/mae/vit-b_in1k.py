"""MAE ViT-B, pretrained on IN1K for 1600 epochs (arXiv:2111.06377).

Numbers: the paper's appendix A.1 and the released code, cited in the ``_base_`` files.
Run: bash tools/dist_train.sh configs/mae/vit-b_in1k.py 8
     (global batch 4096 = 64 per GPU x 8 GPUs x 8 accumulated micro-batches; the release has 64 GPUs)
Expect: top-1 of 83.6 on IN1K after fine-tuning (released). Ours: not yet run.
"""

_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/models/mae_vit-base.py',
    '../_base_/datasets/in1k.py',
    '../_base_/schedules/mae_1600e.py',
]
