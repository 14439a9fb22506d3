"""Attentive probe on iNaturalist 2018, as ``vit-b_in1k.py``, on the lists of prepare_dataset.py.

Data: python tools/prepare_dataset.py inat18 --root data/inat2018
Run:  bash tools/dist_train.sh configs/omnimae/attentive/vit-b_inat18.py 8
Not yet run.
"""

_base_ = '../linear/vit-b_inat18.py'

model = dict(type='AttentiveProbe')
train_dataloader = dict(batch_sampler=dict(global_batch_size=4096))
optim_wrapper = dict(optimizer=dict(lr=1.6))
