"""VideoMAE pretraining, 800 epochs (arXiv:2203.12602; its released scripts).

AdamW, betas and weight decay are the scripts'. Warm-up is linear from 0 over 40 epochs, whose last step has the peak,
then a cosine to 1e-5. Learning rates are the scripts' times videos per step / 256, including the floor, here for 2048.
The scripts count one epoch more, which avoided a crash at the end (PRETRAIN.md). Their batch sizes are 512 to 2048. The
paper's appendix B prints 1024 for all. The authors say that it does as well (issue 64 of the repository). They train in
float16. bfloat16 needs no loss scaling.
"""

optim_wrapper = dict(
    type='AutocastOptimWrapper',
    dtype='bfloat16',
    optimizer=dict(type='AdamW', lr=1.2e-3, betas=(0.9, 0.95), weight_decay=0.05, fused=True),
    constructor='LayerDecayConstructor',  # for its weight decay groups; pretraining has no layer-wise learning rates
    paramwise_cfg=dict(no_decay=('mask_token',)),
)
param_scheduler = dict(
    type='WarmupCosineLR', warmup_epochs=40, start_lr=0.0, end_lr=8e-5, rescale=True, peak_in_warmup=True
)
train_cfg = dict(type='EpochTrainLoop', max_epochs=800, val_interval=50)
custom_hooks = [dict(type='ReconstructionHook', interval=50)]
