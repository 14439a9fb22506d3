"""Figure 5a, accuracy by sample replication: 4 crops and masks of each decoded video (the base).

Images have 1 replica. Batch and updates are those of every cell.

Record: ablation_base.py. Run: bash tools/dist_train.sh configs/omnimae/ablations/figure-5a_video-replicas-4.py 8
Expect: not yet run.
"""

_base_ = './ablation_base.py'
