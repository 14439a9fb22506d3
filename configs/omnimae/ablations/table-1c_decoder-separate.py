"""Table 1c, decoder: one for images and one for videos, each of the size of the base.

Record: ablation_base.py. Run: bash tools/dist_train.sh configs/omnimae/ablations/table-1c_decoder-separate.py 8
Expect: not yet run.
"""

_base_ = './ablation_base.py'

decoder = _base_.model.head
model = dict(head=dict(_delete_=True, image=decoder, video=decoder))
find_unused_parameters = True  # a batch has one modality, so one decoder gets no gradient
