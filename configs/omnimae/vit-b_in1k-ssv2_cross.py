"""OmniMAE ViT-B with a decoder of cross-attention (arXiv:2401.14391), pretrained on IN1K + SSv2 for 1600 epochs.

Hidden tokens attend to the visible ones alone, and a training step predicts half of them. Everything else is as in
``vit-b_in1k-ssv2.py``, the encoder too, so its fine-tuning configs fit.

Numbers: the decoder's size is OmniMAE's. Half lies between what CrossMAE's released models predict in training, a third
     (ViT-H) and all of the hidden tokens. ``model.decode_ratio=1`` predicts all.
Run: bash tools/dist_train.sh configs/omnimae/vit-b_in1k-ssv2_cross.py 8
Expect: not yet run. docs/speed.md has the time of a step.
"""

_base_ = './vit-b_in1k-ssv2.py'

model = dict(head=dict(type='CrossMAEHead'), decode_ratio=0.5)
