"""k-NN of a frozen backbone on CIFAR-10, without training. 10,000 training images vote for the 10,000 test images.

Run: python tools/test.py configs/small/cifar10_knn.py CHECKPOINT
Expect: 39.7 %, from ``cifar10_pretrain.py`` (chance 10 %).
"""

_base_ = ['cifar10_linear.py']

model = dict(_delete_=True, type='FrozenBackbone', backbone=_base_.backbone)
bank = dict(type='MixedDataset', sources=dict(images=_base_.bank))
test_cfg = dict(
    _delete_=True,
    type='KNNTestLoop',
    num_classes=10,
    bank_dataloader=dict(_base_.test_dataloader, dataset=bank),
)
