"""MAE pretraining, 1600 epochs, as arXiv:2111.06377, appendix A.1 (learning rate 1.5e-4 per 256 images, here for 4096).

AdamW, betas and weight decay are the paper's. Warm-up is linear from 0 over 40 epochs, then a cosine to 0. The release
trains in float16. bfloat16 needs no loss scaling.
"""

optim_wrapper = dict(
    type='AutocastOptimWrapper',
    dtype='bfloat16',
    optimizer=dict(type='AdamW', lr=2.4e-3, betas=(0.9, 0.95), weight_decay=0.05, fused=True),
    constructor='LayerDecayConstructor',  # for its weight decay groups; pretraining has no layer-wise learning rates
)
param_scheduler = dict(type='WarmupCosineLR', warmup_epochs=40, start_lr=0.0, end_lr=0.0, rescale=True)
train_cfg = dict(type='EpochTrainLoop', max_epochs=1600, val_interval=50)
custom_hooks = [dict(type='ReconstructionHook', interval=50)]
