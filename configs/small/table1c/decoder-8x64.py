"""Table 1c in small: a decoder of 8 blocks.

Run: python tools/train.py configs/small/table1c/decoder-8x64.py
Expect: docs/evidence_details.md, table1c. Not yet run.
"""

_base_ = ['../pretrain/joint.py']

model = dict(head=dict(depth=8))
