"""Table 1b, mask types: images at random, videos causally.

The first 10 % of the tokens of a video, in raster order, are visible.

Record: ablation_base.py. Run: bash tools/dist_train.sh configs/omnimae/ablations/table-1b_video-causal.py 8
Expect: top-1 of 82.8 on IN1K and 64.4 on SSv2 after fine-tuning (paper). Ours: not yet run.
"""

_base_ = './ablation_base.py'

model = dict(mask_generator=dict(video=dict(type='CausalMasking')))
