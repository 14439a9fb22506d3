"""Attentive probe on the demo's videos, ``linear_videos.py`` with queries that pool the tokens.

Run: python tools/train.py configs/demo/attentive_videos.py --cfg-options model.init_cfg.checkpoint=CHECKPOINT
Expect: 74.0 %, one seed of ``pretrain.py``. Chance is 4.2 %.
"""

_base_ = ['linear_videos.py']

model = dict(type='AttentiveProbe')
