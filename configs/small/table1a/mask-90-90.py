"""Table 1a in small: 90 % of image tokens hidden, 90 % of video tokens.

Run: python tools/train.py configs/small/table1a/mask-90-90.py
Expect: docs/evidence_details.md, table1a.
"""

_base_ = ['../pretrain/joint.py']

model = dict(mask_generator=dict(image=dict(ratio=0.9)))
