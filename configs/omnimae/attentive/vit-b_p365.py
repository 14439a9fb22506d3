"""Attentive probe on Places365-Standard, as ``vit-b_in1k.py``, on the lists of prepare_dataset.py.

Data: python tools/prepare_dataset.py p365 --root data/places365
Run:  bash tools/dist_train.sh configs/omnimae/attentive/vit-b_p365.py 8
Not yet run.
"""

_base_ = '../linear/vit-b_p365.py'

model = dict(type='AttentiveProbe')
train_dataloader = dict(batch_sampler=dict(global_batch_size=4096))
optim_wrapper = dict(optimizer=dict(lr=1.6))
