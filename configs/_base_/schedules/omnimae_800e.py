"""OmniMAE pretraining, 800 epochs.

AdamW, betas, weight decay, peak learning rate (absolute, for the recipe's global batch size) and 40 epochs of warm-up
are those of the paper (arXiv:2206.08356), B.1, Table 3. The paper does not state the shape. It is linear from 1e-6,
then a cosine to 0, as in the release. The release trains in float16. bfloat16 needs no loss scaling.
"""

optim_wrapper = dict(
    type='AutocastOptimWrapper',
    dtype='bfloat16',
    optimizer=dict(type='AdamW', lr=3e-4, betas=(0.9, 0.95), weight_decay=0.05, fused=True),
    constructor='LayerDecayConstructor',  # for its weight decay groups; pretraining has no layer-wise learning rates
)
param_scheduler = dict(type='WarmupCosineLR', warmup_epochs=40, start_lr=1e-6, end_lr=0.0, rescale=True)
train_cfg = dict(type='EpochTrainLoop', max_epochs=800, val_interval=50)
custom_hooks = [dict(type='ReconstructionHook', interval=50)]
