"""What fine-tuning of MultiMAE for segmentation shares. The config of the data set has the epochs.

AdamW at 1e-4, weight decay 0.05, layer decay 0.75 by BEiT's rule, linear warm-up from 0 and cosine to 0 are those of
the released configs and code (github.com/EPFL-VILAB/MultiMAE). The release trains in float16. bfloat16 needs no loss
scaling.
"""

optim_wrapper = dict(
    type='AutocastOptimWrapper',
    dtype='bfloat16',
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05, fused=True),
    constructor='LayerDecayConstructor',
    paramwise_cfg=dict(layer_decay=0.75, rule='paper'),
)
param_scheduler = dict(
    type='WarmupCosineLR', warmup_epochs=1, start_lr=0.0, end_lr=0.0, rescale=True, peak_in_warmup=True
)
train_cfg = dict(type='EpochTrainLoop', max_epochs=64)
custom_hooks = [dict(type='PredictionHook', interval=20)]
