"""Attentive probe on the demo's images, ``linear_images.py`` with queries that pool the tokens.

Run: python tools/train.py configs/demo/attentive_images.py --cfg-options model.init_cfg.checkpoint=CHECKPOINT
Expect: 88.2 %, one seed of ``pretrain.py``. Chance is 4.2 %.
"""

_base_ = ['linear_images.py']

model = dict(type='AttentiveProbe')
