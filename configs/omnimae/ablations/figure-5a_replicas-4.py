"""Figure 5a, sample replication: 4 crops and masks of each decoded video (the base).

Assumed: only videos are replicated, and an epoch takes 1/4 of the videos, so that every cell trains on as many clips.

Record: ablation_base.py. Run: bash tools/dist_train.sh configs/omnimae/ablations/figure-5a_replicas-4.py 8
Expect: not yet run.
"""

_base_ = './ablation_base.py'
