"""Table 1a, mask ratios: 90 % of the image tokens, 75 % of the video tokens.

Record: ablation_base.py. Run: bash tools/dist_train.sh configs/omnimae/ablations/table-1a_mask-90-75.py 8
Expect: top-1 of 82.8 on IN1K and 67.7 on SSv2 after fine-tuning (paper). Ours: not yet run.
"""

_base_ = './ablation_base.py'

model = dict(mask_generator=dict(image=dict(ratio=0.9), video=dict(ratio=0.75)))
