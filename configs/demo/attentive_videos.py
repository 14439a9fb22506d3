"""Attentive probe on the demo's videos, ``linear_videos.py`` with queries that pool the tokens.

Run: python tools/train.py configs/demo/attentive_videos.py --cfg-options model.init_cfg.checkpoint=CHECKPOINT
Not yet run.
"""

_base_ = ['linear_videos.py']

model = dict(type='AttentiveProbe')
