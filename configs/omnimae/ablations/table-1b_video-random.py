"""Table 1b, mask types: images and videos at random.

Record: ablation_base.py. Run: bash tools/dist_train.sh configs/omnimae/ablations/table-1b_video-random.py 8
Expect: top-1 of 82.7 on IN1K and 67.8 on SSv2 after fine-tuning (paper). Ours: not yet run.
"""

_base_ = './ablation_base.py'

model = dict(mask_generator=dict(video=dict(type='RandomMasking')))
