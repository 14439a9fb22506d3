"""k-NN of a frozen backbone on CIFAR-10: 10,000 training images vote for the 10,000 test images; nothing is trained.

Run: python tools/test.py configs/small/cifar10_knn.py CHECKPOINT
Expect: TODO
"""

_base_ = ['_base_/cifar10.py']

model = dict(type='FrozenBackbone', backbone=_base_.backbone)
test_dataloader = _base_.val_dataloader
test_evaluator = dict(type='ClipAccuracy', topk=(1,))
bank = dict(type='MixedDataset', sources=dict(images=_base_.bank))
test_cfg = dict(type='KNNTestLoop', num_classes=10, bank_dataloader=dict(_base_.val_dataloader, dataset=bank))
