"""Table 1b, mask type of videos: tubes (the base).

Record: ablation_base.py. Run: bash tools/dist_train.sh configs/omnimae/ablations/table-1b_video-tube.py 8
Expect: not yet run.
"""

_base_ = './ablation_base.py'
