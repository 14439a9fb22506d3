"""A number from outside: ViT-Tiny with patches of 2 on CIFAR-10, fine-tuned as github.com/IcarusWizard/MAE.

Numbers: that repository's: 100 epochs, 1024 images a step, AdamW at 1e-3 for each 256 images, betas (0.9, 0.999),
weight decay 0.05, 5 epochs of warm-up, no augmentation; for either start the best of three rates around that one.
Run:  bash tools/dist_train.sh configs/small/outside/vit-tiny_finetune.py 1 --cfg-options model.init_cfg.checkpoint=...
Expect: not yet run; there 89.77 % from ``vit-tiny_pretrain.py``, 74.13 % from scratch.
"""

_base_ = ['finetune.py']

model = dict(backbone=dict(embed_dim=192, depth=12, num_heads=3, patch_size=(1, 2, 2)))  # of vit-tiny_pretrain.py
train_dataloader = dict(batch_size=256, num_workers=8, batch_sampler=dict(global_batch_size=1024))
optim_wrapper = dict(optimizer=dict(lr=4e-3, betas=(0.9, 0.999)))
param_scheduler = dict(warmup_epochs=5)
train_cfg = dict(max_epochs=100, val_interval=10)
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(interval=5))
