"""What all fine-tuning shares; epochs, learning rate, batch and decay stand in the config of the benchmark.

AdamW with betas (0.9, 0.999) and layer-wise learning rates: paper (arXiv:2206.08356), Tables 4 and 5. The rates fall by
BEiT's rule, as the paper writes it; the release has one factor of the decay more everywhere, also at the head
(``optim_wrapper.paramwise_cfg.rule=release``). Linear warm-up from 1e-6, cosine to 1e-6: the release. It trains in
float32 (``optim_wrapper.dtype=None``); the paper does not say.
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
