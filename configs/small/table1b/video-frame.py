"""Table 1b in small: whole time slices of a clip are hidden, three of four: the ratio rounded down.

Run: python tools/train.py configs/small/table1b/video-frame.py
Expect: one seed decided nothing (docs/evidence_details.md).
"""

_base_ = ['../pretrain/joint.py']

model = dict(mask_generator=dict(video=dict(type='FrameMasking')))
