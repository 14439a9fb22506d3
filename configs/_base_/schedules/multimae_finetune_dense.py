"""Fine-tuning of MultiMAE for segmentation and depth, as ``finetune_dense.py``. The global token has no weight decay.

The source is the released code (github.com/EPFL-VILAB/MultiMAE). Its names for class embeddings match none, so they
have weight decay.
"""

_base_ = './finetune_dense.py'

optim_wrapper = dict(paramwise_cfg=dict(no_decay=('global_tokens',)))
