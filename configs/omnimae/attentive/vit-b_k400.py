"""Attentive probe on Kinetics-400, as ``vit-b_ssv2.py``, on clips of 2 seconds, flipped.

Data: python tools/prepare_dataset.py k400 --root data/kinetics400
Run:  bash tools/dist_train.sh configs/omnimae/attentive/vit-b_k400.py 8
Not yet run.
"""

_base_ = '../linear/vit-b_k400.py'

model = dict(type='AttentiveProbe')
