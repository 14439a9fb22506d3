"""k-NN on the demo's camera motions with a frozen backbone, without training.

Run: python tools/test.py configs/demo/knn_videos.py CHECKPOINT
Expect: 27.1 % (chance 12.5 %), from epoch 20 of ``pretrain.py`` with seed 0.
"""

_base_ = ['linear_videos.py']

model = dict(_delete_=True, type='FrozenBackbone', backbone=_base_.backbone)
middle = _base_.val_videos.transforms
bank = dict(type='MixedDataset', sources=dict(videos=dict(_base_.train_videos, transforms=middle)))
test_cfg = dict(
    _delete_=True,
    type='KNNTestLoop',
    num_classes=24,
    bank_dataloader=dict(_base_.test_dataloader, dataset=bank),
)
