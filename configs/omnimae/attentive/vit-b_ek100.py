"""Attentive probe on EPIC-Kitchens-100, as ``vit-b_ssv2.py``, on the lists of prepare_dataset.py.

The classes are actions. ``actions.csv`` gives the accuracies of verbs and nouns.

Data: python tools/prepare_dataset.py ek100 --root data/epic100
Run:  bash tools/dist_train.sh configs/omnimae/attentive/vit-b_ek100.py 8
Not yet run.
"""

_base_ = '../linear/vit-b_ek100.py'

model = dict(type='AttentiveProbe')
