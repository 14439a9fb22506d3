"""Table 1c in small: a decoder of 2 blocks, 80 wide, for images and one of 1 block, 64 wide, for videos.

As in the paper that of images is deeper and wider, and the two have four times the parameters of the common one.

Run: python tools/train.py configs/small/table1c/decoder-separate-larger.py
Expect: docs/evidence_details.md, table1c. Not yet run.
"""

_base_ = ['./decoder-separate.py']

model = dict(head=dict(image=dict(embed_dim=80, depth=2)))
