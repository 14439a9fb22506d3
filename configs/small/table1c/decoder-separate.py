"""Table 1c in small: a decoder for images and one for videos, each of the size of the common one.

Run: python tools/train.py configs/small/table1c/decoder-separate.py
Expect: one seed decided nothing (docs/evidence_details.md).
"""

_base_ = ['../pretrain/joint.py']

decoder = _base_.model.head
model = dict(head=dict(_delete_=True, image=decoder, video=decoder))
find_unused_parameters = True  # a batch has one modality, so one decoder gets no gradient
