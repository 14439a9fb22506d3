"""Fine-tuning of MAE-ST, as ``finetune.py``, with gradients clipped to a norm of 5 (SlowFast's configs/masked_ssl).

SlowFast states learning rates per machine of 8 GPUs, with 16 videos a step. It multiplies them by the number of
machines, those of beginning and end too. Here they are for as many machines as take 256 samples a step, replicas
included. A config has the peak, both ends and the epochs. SlowFast trains in float32 (``optim_wrapper.dtype=None``).
"""

_base_ = './finetune.py'

optim_wrapper = dict(clip_grad=dict(max_norm=5.0))
train_cfg = dict(val_interval=5)
