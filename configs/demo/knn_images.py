"""k-NN on the demo's images with a frozen backbone, without training.

Run: python tools/test.py configs/demo/knn_images.py CHECKPOINT
Expect: 58.7 %, one seed of ``pretrain.py``. Chance is 4.2 %.
"""

_base_ = ['linear_images.py']

model = dict(_delete_=True, type='FrozenBackbone', backbone=_base_.backbone)
middle = _base_.val_images.transforms
bank = dict(type='MixedDataset', sources=dict(images=dict(_base_.train_images, transforms=middle)))
test_cfg = dict(
    _delete_=True,
    type='KNNTestLoop',
    num_classes=24,
    bank_dataloader=dict(_base_.test_dataloader, dataset=bank),
)
