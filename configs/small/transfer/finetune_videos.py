"""Classification of the eight motions of the foreground, fine-tuned from pretraining or from scratch.

Run: python tools/train.py configs/small/transfer/finetune_videos.py --cfg-options model.init_cfg.checkpoint=CHECKPOINT
     python tools/train.py configs/small/transfer/finetune_videos.py --cfg-options model.init_cfg=None    (from scratch)
Expect: docs/evidence_details.md; chance is 12.5 %.
"""

_base_ = ['../_base_/finetune.py']

model = dict(num_classes=8)
train_dataloader = dict(dataset=dict(sources=dict(_delete_=True, videos=_base_.videos.train)))
val_dataloader = dict(dataset=dict(sources=dict(_delete_=True, videos=_base_.videos.val)))
test_dataloader = dict(
    _base_.val_dataloader, dataset=dict(type='MixedDataset', sources=dict(videos=_base_.videos.test))
)
