"""Table 1b, mask type of videos: random.

Record: ablation_base.py. Run: bash tools/dist_train.sh configs/omnimae/ablations/table-1b_video-random.py 8
Expect: not yet run.
"""

_base_ = './ablation_base.py'

model = dict(mask_generator=dict(video=dict(type='RandomMasking')))
