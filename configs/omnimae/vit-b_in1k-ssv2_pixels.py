"""OmniMAE ViT-B that predicts plain pixels, to look at its reconstructions (arXiv:2206.08356, B.4).

Numbers: as ``vit-b_in1k-ssv2.py``, without the normalisation of the targets. Size and length of the paper's
visualisation model are not confirmed here, and its weights were not released.
Run: bash tools/dist_train.sh configs/omnimae/vit-b_in1k-ssv2_pixels.py 8
Hardware of the paper: 64 GPUs of 32 GB.
Expect: pictures without the help of the true patch statistics, see tools/visualize_reconstruction.py. Not yet run.
"""

_base_ = './vit-b_in1k-ssv2.py'

model = dict(head=dict(target=dict(normalize=None)))
