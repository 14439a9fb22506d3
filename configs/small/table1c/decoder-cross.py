"""Table 1c in small: hidden tokens attend to the visible ones alone, as in CrossMAE (arXiv:2401.14391).

Run: python tools/train.py configs/small/table1c/decoder-cross.py
Expect: docs/evidence_details.md, table1c, one seed.
"""

_base_ = ['../pretrain/joint.py']

model = dict(head=dict(type='CrossMAEHead'))
