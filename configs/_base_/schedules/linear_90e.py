"""Linear probe, 90 epochs, as MAE (arXiv:2111.06377), appendix A, and its released code.

LARS with momentum 0.9 and without weight decay. Linear warm-up from 0 over 10 epochs, then a cosine to 0. The peak
learning rate is 0.1 x global batch size / 256, here for 16384. (MAE trains ViT-L and ViT-H for 50 epochs.)
"""

optim_wrapper = dict(
    type='AutocastOptimWrapper',
    dtype='bfloat16',
    optimizer=dict(type='LARS', lr=6.4, momentum=0.9, weight_decay=0.0),
    constructor='LayerDecayConstructor',  # for trained parameters only
)
param_scheduler = dict(type='WarmupCosineLR', warmup_epochs=10, start_lr=0.0, end_lr=0.0)
train_cfg = dict(type='EpochTrainLoop', max_epochs=90, val_interval=10)
