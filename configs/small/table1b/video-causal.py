"""Table 1b in small: the beginning of a clip is shown, the rest is hidden.

That is always the same: the upper 15 of the 36 tokens of the first time slice; nothing is drawn.

Run: python tools/train.py configs/small/table1b/video-causal.py
Expect: one seed decided nothing (docs/evidence_details.md).
"""

_base_ = ['../pretrain/joint.py']

model = dict(mask_generator=dict(video=dict(type='CausalMasking')))
