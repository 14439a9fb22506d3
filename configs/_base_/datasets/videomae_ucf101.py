"""UCF101 videos alone, split 1, as ``python tools/prepare_dataset.py ucf101 --root data/ucf101`` leaves them.

Crops and clips are as in ``videomae_k400.py``. Labels are not used.
"""

_base_ = './videomae_k400.py'

root = f'{_base_.data_root}/ucf101'
train, val = (loader.dataset.sources.k400 for loader in (_base_.train_dataloader, _base_.val_dataloader))
train_dataloader = dict(
    batch_size=24,
    dataset=dict(
        sources=dict(
            _delete_=True,
            ucf101=dict(train, root=root, ann_file=f'{root}/ucf101_train_list_videos.txt'),
        )
    ),
    batch_sampler=dict(global_batch_size=192),
)
val_dataloader = dict(
    batch_size=24,
    dataset=dict(
        sources=dict(_delete_=True, ucf101=dict(val, root=root, ann_file=f'{root}/ucf101_val_list_videos.txt'))
    ),
)
