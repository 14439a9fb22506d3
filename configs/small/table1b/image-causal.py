"""Table 1b in small: the beginning of an image is shown, and of a clip the same places in all time slices.

That of an image is always the same: the first 9 of 36 tokens, from the top left; nothing is drawn.

Run: python tools/train.py configs/small/table1b/image-causal.py
Expect: docs/evidence_details.md, table1b. Not yet run.
"""

_base_ = ['../pretrain/joint.py']

model = dict(mask_generator=dict(image=dict(type='CausalMasking'), video=dict(type='TubeMasking')))
