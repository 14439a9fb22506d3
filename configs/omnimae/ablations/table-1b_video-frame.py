"""Table 1b, mask types: images at random, videos by whole time slices.

Of 8 time slices of two frames 90 % are 7 after rounding down, 87.5 % of the tokens.

Record: ablation_base.py. Run: bash tools/dist_train.sh configs/omnimae/ablations/table-1b_video-frame.py 8
Expect: top-1 of 82.9 on IN1K and 65.8 on SSv2 after fine-tuning (paper). Ours: not yet run.
"""

_base_ = './ablation_base.py'

model = dict(mask_generator=dict(video=dict(type='FrameMasking')))
