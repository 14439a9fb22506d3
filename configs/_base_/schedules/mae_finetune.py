"""Fine-tuning of MAE, as ``finetune.py``, with a warm-up from 0. Class token and positions have no weight decay.

The source is the released code (github.com/facebookresearch/mae), which trains the positions too. A config has the peak
learning rate and the epochs.
"""

_base_ = './finetune.py'

optim_wrapper = dict(paramwise_cfg=dict(no_decay=('cls_token', 'pos_embed', 'pos_embed_cls')))
param_scheduler = dict(start_lr=0.0)
