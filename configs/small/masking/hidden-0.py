"""Masking saves compute: the encoder sees all tokens of a sample but one.

Run: python tools/train.py configs/small/masking/hidden-0.py
Expect: docs/evidence_details.md, masking.
"""

_base_ = ['../pretrain/joint.py']

model = dict(mask_generator=dict(image=dict(ratio=0.03), video=dict(ratio=0.01)))
