"""MultiMAE pretraining, 1600 epochs: arXiv:2204.01678, appendix A (a rate of 1e-4 per 256 images, here for 2048).

AdamW, betas; linear from 0 over 40 epochs, then a cosine to 0. Everything is decayed, biases, norms and tokens too: the
released code has one group of parameters, because it gives the optimizer a list of them. The release trains in
float16; bfloat16 needs no loss scaling.
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
