"""MAE-ST pretraining, 200 epochs of four clips a video (arXiv:2205.09113; SlowFast's configs/masked_ssl).

AdamW, betas and weight decay are SlowFast's. Gradients are clipped to a norm of 0.02. SlowFast states learning rates
per machine of 8 GPUs, with 32 videos (64 of ViT-B) a step. They are 1e-4, from and to 1e-6, times the number of
machines. Here it is for 16 of them, which gives the learning rate and the 512 videos of the paper. SlowFast trains in
float32 (``optim_wrapper.dtype=None``). It ends a run whose loss doubles. Ours skips steps that are not finite. Both
decay tokens and positions like all weights.
"""

optim_wrapper = dict(
    type='AutocastOptimWrapper',
    dtype='bfloat16',
    optimizer=dict(type='AdamW', lr=1.6e-3, betas=(0.9, 0.95), weight_decay=0.05, fused=True),
    constructor='LayerDecayConstructor',  # for its weight decay groups; pretraining has no layer-wise learning rates
    clip_grad=dict(max_norm=0.02),
)
param_scheduler = dict(type='WarmupCosineLR', warmup_epochs=30, start_lr=1.6e-5, end_lr=1.6e-5, rescale=True)
train_cfg = dict(type='EpochTrainLoop', max_epochs=200, val_interval=25)
custom_hooks = [dict(type='ReconstructionHook', interval=25)]
