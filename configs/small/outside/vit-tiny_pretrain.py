"""A number from outside, ViT-Tiny with patches of 2 on CIFAR-10, 2000 epochs of MAE, as github.com/IcarusWizard/MAE.

Numbers: that repository's. 256 tokens, 75 % hidden. 12 blocks of 192 with 3 heads, a decoder of 4 of these, plain
pixels. 4096 images a step, AdamW at 1.5e-4 for each 256 images, betas (0.9, 0.95), weight decay 0.05, 200 epochs of
warm-up, no augmentation. Different here: fixed positions instead of learned ones, no class token, and 40,000 of the
50,000 images, with the same number of samples in all (2500 and 250 epochs). 5000 of the others choose the learning rate
of fine-tuning.
Data: python tools/prepare_dataset.py small --root data/small_2000 --images data/cifar10 --size 2000
Run:  bash tools/dist_train.sh configs/small/outside/vit-tiny_pretrain.py 1 --amp
Expect: not yet run. There 89.77 % fine-tuned, 74.13 % from scratch.
"""

_base_ = ['steps-1000.py']

lists = f'{_base_.root}/small_2000'

model = dict(
    backbone=dict(embed_dim=192, depth=12, num_heads=3, patch_size=(1, 2, 2)),
    head=dict(embed_dim=192, depth=4, num_heads=3, qkv_bias=True, target=dict(type='PixelTarget', normalize=None)),
)
train_dataloader = dict(
    batch_size=512,
    num_workers=8,
    dataset=dict(sources=dict(images=dict(ann_file=f'{lists}/images_train.txt'))),
    sampler=dict(repeats=dict(images=1.0)),
    batch_sampler=dict(global_batch_size=4096),
)
val_dataloader = dict(dataset=dict(sources=dict(images=dict(ann_file=f'{lists}/images_val.txt'))))
optim_wrapper = dict(optimizer=dict(lr=2.4e-3))
param_scheduler = dict(warmup_epochs=250)
train_cfg = dict(max_epochs=2500, val_interval=100)
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(interval=10))
