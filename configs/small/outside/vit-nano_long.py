"""A number from outside, "ViT-Nano" on CIFAR-10, trained for 200 epochs as github.com/yjh0410/MAE does from scratch.

Numbers: ``vit-nano_finetune.py``, four times as long with 20 epochs of warm-up (250 and 25 here).
Run:  bash tools/dist_train.sh configs/small/outside/vit-nano_long.py 1 --cfg-options model.init_cfg=None
Expect: not yet run. There 77.7 % from scratch.
"""

_base_ = ['vit-nano_finetune.py']

param_scheduler = dict(warmup_epochs=25)
train_cfg = dict(max_epochs=250)
