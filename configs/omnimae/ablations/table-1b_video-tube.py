"""Table 1b, mask types: images at random, videos in tubes (the base).

Record: ablation_base.py. Run: bash tools/dist_train.sh configs/omnimae/ablations/table-1b_video-tube.py 8
Expect: top-1 of 82.8 on IN1K and 67.9 on SSv2 after fine-tuning (paper). Ours: not yet run.
"""

_base_ = './ablation_base.py'
