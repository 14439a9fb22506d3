"""Fine-tuning of VideoMAE, as ``finetune.py``, with a warm-up from 0 whose last step has the peak (its released code).

The release trains in float16 with DeepSpeed. bfloat16 needs no loss scaling. Learning rates are the scripts' times
videos per step / 256, including the floor. Replicas do not count there. A config has the peak, ``end_lr`` and the
epochs.
"""

_base_ = './finetune.py'

param_scheduler = dict(start_lr=0.0, peak_in_warmup=True)
train_cfg = dict(val_interval=5)
