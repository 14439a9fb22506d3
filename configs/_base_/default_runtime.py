"""Hooks, logging, seed and processes of every run. A config changes a hook by its name here."""

default_scope = 'omnimae'

default_hooks = dict(
    # MMEngine's
    runtime_info=dict(type='RuntimeInfoHook'),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    param_scheduler=dict(type='ParamSchedulerHook'),
    # ours
    logger=dict(type='LoggerHook', interval=50),
    timer=dict(type='IterTimerHook'),
    checkpoint=dict(type='CheckpointHook', interval=1, max_keep_ckpts=3),
    step_seed=dict(type='StepSeedHook'),
    throughput=dict(type='ThroughputHook'),
    head_size=dict(type='HeadSizeHook'),
    labels=dict(type='LabelHook'),
    broken_files=dict(type='BrokenFileHook', min_failures=10, max_ratio=0.01),
    resume=dict(type='ResumeHook'),
    plain_checkpoint=dict(type='PlainCheckpointHook'),
    export=dict(type='ExportHook'),
    preemption=dict(type='PreemptionHook'),
    rescue=dict(type='RescueHook'),
)

# Curves of one modality or task and speeds change from step to step, so they are smoothed like the loss. Metrics, whose
# names have a slash, are not. `accuracy/top1` of a validation must not be averaged with earlier ones.
log_processor = dict(
    type='LogProcessor',
    window_size=10,
    mean_pattern=r'^((train|val|test)/)?[^/]*(loss|mse_|l1_|cross_entropy_|top1|time|grad_norm|per_second)[^/]*$',
)

visualizer = dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')])

randomness = dict(seed=0)

# Without a GPU the ranks use gloo, whatever the backend here. A rank without a sign of life for ``dist_cfg.heartbeat``
# seconds (60) is dead. One that others have waited for as long is named. It is given up after ``dist_cfg.timeout``
# (1800). They meet within twice the heartbeat. ``float32_precision='high'`` lets GPUs round the inputs of float32
# products to TF32, as PyTorch did by default when the papers were trained. 'highest' does not, for comparisons.
env_cfg = dict(
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0), dist_cfg=dict(backend='nccl'), float32_precision='high'
)
