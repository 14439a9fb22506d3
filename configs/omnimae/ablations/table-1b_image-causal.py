"""Table 1b, mask types: images causally, videos in tubes.

The first quarter of the tokens of an image, from the top left in raster order, is visible.

Record: ablation_base.py. Run: bash tools/dist_train.sh configs/omnimae/ablations/table-1b_image-causal.py 8
Expect: top-1 of 82.1 on IN1K and 67.3 on SSv2 after fine-tuning (paper). Ours: not yet run.
"""

_base_ = './ablation_base.py'

model = dict(mask_generator=dict(image=dict(type='CausalMasking')))
