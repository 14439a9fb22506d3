"""Table 1b in small: the same places of a clip are hidden in all time slices.

Run: python tools/train.py configs/small/table1b/video-tube.py
Expect: one seed decided nothing (docs/evidence_details.md).
"""

_base_ = ['../pretrain/joint.py']

model = dict(mask_generator=dict(video=dict(type='TubeMasking')))
