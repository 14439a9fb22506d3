"""Figure 5b, training time by sample replication: 1 crop and mask of each decoded image.

This is one epoch of figure 5a's run, to be timed. The result is the time of its 708 updates relative to that with 1
replica. Read ``time``, ``data_time`` and the samples per second in the log.

Record: figure-5a_image-replicas-1.py
Run: bash tools/dist_train.sh configs/omnimae/ablations/figure-5b_image-replicas-1.py 8
Expect: not yet run.
"""

_base_ = './figure-5a_image-replicas-1.py'

train_cfg = dict(max_epochs=1)
param_scheduler = dict(warmup_epochs=0)
