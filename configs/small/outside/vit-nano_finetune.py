"""A number from outside, "ViT-Nano" with patches of 2 on CIFAR-10, fine-tuned for 50 epochs, as github.com/yjh0410/MAE.

Numbers: that repository's. 256 images a step, AdamW at 1e-3 with weight decay 0.05, 5 epochs of warm-up, no
augmentation. Different here: no dropout (there 0.1), and 40,000 images with the same number of samples in all (62 and
6.25 epochs). The last weights are tested. That repository keeps those of the epoch with the best score on the test set.
Run:  bash tools/dist_train.sh configs/small/outside/vit-nano_finetune.py 1 --cfg-options model.init_cfg.checkpoint=...
Expect: not yet run. There 89.4 % from ``vit-nano_pretrain.py``.
"""

_base_ = ['vit-tiny_finetune.py']

model = dict(backbone=dict(num_heads=12))
train_dataloader = dict(batch_sampler=dict(global_batch_size=256))
optim_wrapper = dict(optimizer=dict(lr=1e-3))
train_cfg = dict(max_epochs=62)
