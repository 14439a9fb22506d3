"""A number from outside, "ViT-Nano" with patches of 2 on CIFAR-10, 400 epochs of MAE, as github.com/yjh0410/MAE.

Numbers: that repository's. ``vit-tiny_pretrain.py``'s encoder with 12 heads, a decoder of 8 blocks of 512 with 16
heads, 256 images a step, learning rate 1e-3, 40 epochs of warm-up. Different here: no dropout (there 0.1), no class
token, and 40,000 of the 50,000 images with the same number of samples in all (500 and 50 epochs).
Data: see ``vit-tiny_pretrain.py``.
Run:  bash tools/dist_train.sh configs/small/outside/vit-nano_pretrain.py 1 --amp
Expect: not yet run. There 89.4 % fine-tuned for 50 epochs, 77.7 % from scratch in 200.
"""

_base_ = ['vit-tiny_pretrain.py']

model = dict(backbone=dict(num_heads=12), head=dict(embed_dim=512, depth=8, num_heads=16))
train_dataloader = dict(batch_size=256, batch_sampler=dict(global_batch_size=256))
optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = dict(warmup_epochs=50)
train_cfg = dict(max_epochs=500)
