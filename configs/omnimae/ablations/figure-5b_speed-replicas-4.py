"""Figure 5b, speed with sample replication: one epoch of figure 5a's run with 4 replicas, to be timed.

Read ``time``, ``data_time`` and ``clips_per_second`` in the log.

Record: figure-5a_replicas-4.py. Run: bash tools/dist_train.sh configs/omnimae/ablations/figure-5b_speed-replicas-4.py 8
Expect: not yet run.
"""

_base_ = './figure-5a_replicas-4.py'

train_cfg = dict(max_epochs=1)
param_scheduler = dict(warmup_epochs=0)
