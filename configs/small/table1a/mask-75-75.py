"""Table 1a in small: 75 % of image tokens hidden, 75 % of video tokens.

Run: python tools/train.py configs/small/table1a/mask-75-75.py
Expect: docs/evidence_details.md, table1a.
"""

_base_ = ['../pretrain/joint.py']

model = dict(mask_generator=dict(video=dict(ratio=0.75)))
