"""MultiMAE in small, fine-tuned for segmentation from RGB and depth. It shows that the method runs.

It starts from ``multimae.py``, and the classes are its stand-ins. For RGB alone, remove depth from the tokenizers and
from the modalities.

Data: python tools/prepare_dataset.py demo --root data/demo
Run:  python tools/train.py configs/demo/multimae_finetune.py
Expect: not yet run to its end. The tests train two epochs of it.
"""

_base_ = ['multimae.py']

tokenizers = {name: _base_.model.backbone.tokenizers[name] for name in ('rgb', 'depth')}
model = dict(
    _delete_=True,
    type='DensePredictor',
    backbone=dict(_base_.model.backbone, tokenizers=tokenizers),
    head=dict(type='ConvNeXtHead', embed_dim=512, upscale=4, depth=2),
    task=dict(type='SegmentationTask', num_classes=_base_.num_classes),
    init_cfg=dict(type='Checkpoint', checkpoint='work_dirs/demo/multimae/epoch_20_raw.safetensors'),
)
train, val = (
    dict(source, target='semseg', modalities=dict(source.modalities, semseg=dict(source.modalities.semseg, stride=1)))
    for source in (_base_.train, _base_.val)
)
train_dataloader = dict(dataset=dict(sources=dict(_delete_=True, images=train)))
val_dataloader = dict(dataset=dict(sources=dict(_delete_=True, images=val)))
test_dataloader = dict(_base_.val_dataloader, dataset=dict(type='MixedDataset', sources=dict(images=val)))
val_evaluator = dict(type='SegmentationScore')
test_evaluator = val_evaluator
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(
    constructor='LayerDecayConstructor',
    paramwise_cfg=dict(layer_decay=0.75, rule='paper', no_decay=('global_tokens',)),
)
train_cfg = dict(max_epochs=8, val_interval=8)
custom_hooks = [dict(type='PredictionHook', interval=8)]
default_hooks = dict(checkpoint=dict(interval=8))
