"""Masking saves compute: 95 % of the tokens of images and of videos are hidden (two of an image are left).

Run: python tools/train.py configs/small/masking/hidden-95.py
Expect: docs/evidence_details.md, masking.
"""

_base_ = ['../pretrain/joint.py']

model = dict(mask_generator=dict(image=dict(ratio=0.95), video=dict(ratio=0.95)))
