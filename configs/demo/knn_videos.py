"""k-NN on the demo's videos with a frozen backbone, without training.

Run: python tools/test.py configs/demo/knn_videos.py CHECKPOINT
Expect: 39.9 %, one seed of ``pretrain.py``. Chance is 4.2 %.
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
