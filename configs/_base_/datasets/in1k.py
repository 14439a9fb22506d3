"""IN1K images alone, the data of MAE pretraining. Its validation set gives a held-out loss.

Expected files: those of ImageNet in ``in1k_ssv2.py``. Crops and flips: MAE (arXiv:2111.06377), appendix A.1.
"""

_base_ = './in1k_ssv2.py'

train_dataloader = dict(
    batch_size=64,
    dataset=dict(sources=dict(_delete_=True, in1k=_base_.train_dataloader.dataset.sources.in1k)),
    sampler=dict(repeats=dict(_delete_=True, in1k=1.0)),
    batch_sampler=dict(global_batch_size=4096),
)
val_dataloader = dict(
    dataset=dict(sources=dict(_delete_=True, in1k=_base_.val_dataloader.dataset.sources.in1k)),
)
