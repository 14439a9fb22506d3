"""Fine-tuning of MultiMAE for segmentation and depth: as ``finetune_dense.py``; the global token is not decayed.

The released code (github.com/EPFL-VILAB/MultiMAE). Its names for vectors of classes match none, so they are decayed.
"""

_base_ = './finetune_dense.py'

optim_wrapper = dict(paramwise_cfg=dict(no_decay=('global_tokens',)))
