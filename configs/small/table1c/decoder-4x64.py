"""Table 1c in small: a decoder of 4 blocks.

Run: python tools/train.py configs/small/table1c/decoder-4x64.py
Expect: one seed decided nothing (docs/evidence_details.md).
"""

_base_ = ['../pretrain/joint.py']

model = dict(head=dict(depth=4))
