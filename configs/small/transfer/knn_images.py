"""k-NN on the ten classes of CIFAR-10 with a frozen backbone, without training.

Run: python tools/test.py configs/small/transfer/knn_images.py CHECKPOINT
Expect: docs/evidence_details.md; chance is 10 %.
"""

_base_ = ['linear_images.py']

model = dict(_delete_=True, type='FrozenBackbone', backbone=_base_.backbone)
bank = dict(_base_.images.train, transforms=_base_.middle)
test_cfg = dict(
    _delete_=True,
    type='KNNTestLoop',
    num_classes=10,
    bank_dataloader=dict(_base_.test_dataloader, dataset=dict(type='MixedDataset', sources=dict(images=bank))),
)
