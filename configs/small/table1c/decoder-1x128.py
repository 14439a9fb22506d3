"""Table 1c in small: a decoder 128 wide.

Run: python tools/train.py configs/small/table1c/decoder-1x128.py
Expect: docs/evidence_details.md, table1c. Not yet run.
"""

_base_ = ['../pretrain/joint.py']

model = dict(head=dict(embed_dim=128))
