"""MultiMAE pretraining, 1600 epochs, as arXiv:2204.01678, appendix A (learning rate 1e-4 per 256 images, here for
2048).

AdamW and betas are the paper's. Warm-up is linear from 0 over 40 epochs, then a cosine to 0. All parameters have weight
decay, biases, norms and tokens too. The released code has one parameter group, because it gives the optimizer a list.
The release trains in float16. bfloat16 needs no loss scaling.
"""

optim_wrapper = dict(
    type='AutocastOptimWrapper',
    dtype='bfloat16',
    optimizer=dict(type='AdamW', lr=8e-4, betas=(0.9, 0.95), weight_decay=0.05, fused=True),
)
param_scheduler = dict(
    type='WarmupCosineLR', warmup_epochs=40, start_lr=0.0, end_lr=0.0, rescale=True, peak_in_warmup=True
)
train_cfg = dict(type='EpochTrainLoop', max_epochs=1600, val_interval=50)
custom_hooks = [dict(type='ReconstructionHook', interval=50)]
