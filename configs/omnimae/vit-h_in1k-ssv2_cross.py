"""OmniMAE ViT-H with a decoder of cross-attention (arXiv:2401.14391), pretrained on IN1K + SSv2 for 1600 epochs.

Numbers: the decoder as in ``vit-b_in1k-ssv2_cross.py``, all else as in ``vit-h_in1k-ssv2.py``.
Run: bash tools/dist_train.sh configs/omnimae/vit-h_in1k-ssv2_cross.py 8
Expect: not yet run.
"""

_base_ = './vit-h_in1k-ssv2.py'

model = dict(head=dict(type='CrossMAEHead'), decode_ratio=0.5)
