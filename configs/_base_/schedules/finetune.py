"""What all fine-tuning shares. The config of the benchmark has epochs, learning rate, batch size and decay.

AdamW with betas (0.9, 0.999) and layer-wise learning rates are those of the paper (arXiv:2206.08356), Tables 4 and 5.
The layer decay follows BEiT's rule, as the paper writes it. The release has one factor of the decay more everywhere,
also at the head (``optim_wrapper.paramwise_cfg.rule=release``). Linear warm-up from 1e-6 and cosine to 1e-6 are the
release's. It trains in float32 (``optim_wrapper.dtype=None``). The paper does not state it.
"""

optim_wrapper = dict(
    type='AutocastOptimWrapper',
    dtype='bfloat16',
    optimizer=dict(type='AdamW', lr=1e-3, betas=(0.9, 0.999), weight_decay=0.05, fused=True),
    constructor='LayerDecayConstructor',
    paramwise_cfg=dict(layer_decay=0.75, rule='paper'),
)
param_scheduler = dict(type='WarmupCosineLR', warmup_epochs=5, start_lr=1e-6, end_lr=1e-6, rescale=True)
train_cfg = dict(type='EpochTrainLoop', max_epochs=100)
