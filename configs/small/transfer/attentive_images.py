"""Attentive probe, ``linear_images.py`` with queries that pool the tokens.

Run: python tools/train.py configs/small/transfer/attentive_images.py --cfg-options model.init_cfg.checkpoint=CHECKPOINT
Expect: docs/evidence_details.md; chance is 10 %.
"""

_base_ = ['linear_images.py']

model = dict(type='AttentiveProbe')
