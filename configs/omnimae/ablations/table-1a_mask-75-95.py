"""Table 1a, mask ratios: 75 % of the image tokens, 95 % of the video tokens.

Record: ablation_base.py. Run: bash tools/dist_train.sh configs/omnimae/ablations/table-1a_mask-75-95.py 8
Expect: top-1 of 82.8 on IN1K and 68.1 on SSv2 after fine-tuning (paper). Ours: not yet run.
"""

_base_ = './ablation_base.py'

model = dict(mask_generator=dict(video=dict(ratio=0.95)))
