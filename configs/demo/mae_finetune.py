"""MAE in small, fine-tuned. It is ``finetune_images.py`` from ``mae.py`` and shows that the method runs.

Data: python tools/prepare_dataset.py demo --root data/demo
Run:  python tools/train.py configs/demo/mae_finetune.py
Expect: not yet run to its end. The tests train two epochs of it.
"""

_base_ = ['finetune_images.py']

model = dict(
    backbone=dict(
        patch_size=(1, 8, 8), clip_size=(1, 96, 96), positions='sincos2d', cls_token=True, train_positions=True
    ),
    init_cfg=dict(checkpoint='work_dirs/demo/mae/epoch_20_raw.safetensors'),
)
optim_wrapper = dict(paramwise_cfg=dict(no_decay=('cls_token', 'pos_embed', 'pos_embed_cls')))
