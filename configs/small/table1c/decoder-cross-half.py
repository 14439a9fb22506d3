"""Table 1c in small: ``decoder-cross.py`` that predicts half of the hidden tokens in a step.

Run: python tools/train.py configs/small/table1c/decoder-cross-half.py
Expect: docs/evidence_details.md, table1c. Not yet run.
"""

_base_ = ['./decoder-cross.py']

model = dict(decode_ratio=0.5)
