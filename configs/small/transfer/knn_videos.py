"""k-NN on the eight motions of the foreground with a frozen backbone, without training.

Run: python tools/test.py configs/small/transfer/knn_videos.py CHECKPOINT
Expect: docs/evidence_details.md; chance is 12.5 %.
"""

_base_ = ['linear_videos.py']

model = dict(_delete_=True, type='FrozenBackbone', backbone=_base_.backbone)
bank = dict(_base_.videos.train, transforms=_base_.middle)
test_cfg = dict(
    _delete_=True,
    type='KNNTestLoop',
    num_classes=8,
    bank_dataloader=dict(_base_.test_dataloader, dataset=dict(type='MixedDataset', sources=dict(videos=bank))),
)
