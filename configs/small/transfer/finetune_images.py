"""Classification of CIFAR-10, fine-tuned from pretraining or from scratch.

Run: python tools/train.py configs/small/transfer/finetune_images.py --cfg-options model.init_cfg.checkpoint=CHECKPOINT
     python tools/train.py configs/small/transfer/finetune_images.py --cfg-options model.init_cfg=None    (from scratch)
Expect: docs/evidence_details.md; chance is 10 %.
"""

_base_ = ['../_base_/finetune.py']

model = dict(num_classes=10)
train_dataloader = dict(dataset=dict(sources=dict(_delete_=True, images=_base_.images.train)))
val_dataloader = dict(dataset=dict(sources=dict(_delete_=True, images=_base_.images.val)))
test_dataloader = dict(
    _base_.val_dataloader, dataset=dict(type='MixedDataset', sources=dict(images=_base_.images.test))
)
