"""Attentive probe, ``linear_videos.py`` with queries that pool the tokens.

Run: python tools/train.py configs/small/transfer/attentive_videos.py --cfg-options model.init_cfg.checkpoint=CHECKPOINT
Expect: docs/evidence_details.md; chance is 12.5 %.
"""

_base_ = ['linear_videos.py']

model = dict(type='AttentiveProbe')
