"""Figure 5a, accuracy by sample replication: 1 crop and mask of each decoded image (the base).

Videos keep their 4 replicas. Batch and updates are those of every cell.

Record: ablation_base.py. Run: bash tools/dist_train.sh configs/omnimae/ablations/figure-5a_image-replicas-1.py 8
Expect: not yet run.
"""

_base_ = './ablation_base.py'
