"""UCF101 videos alone, split 1: as ``videomae_k400.py``.

Expected files, under ``data`` or the folder named by the environment variable OMNIMAE_DATA::

    ucf101/videos/CLASS/*.avi
    ucf101/ucf101_{train,val}_split_1_videos.txt    (lines: CLASS/NAME.avi LABEL; labels are not used)
"""

_base_ = './videomae_k400.py'

root = f'{_base_.data_root}/ucf101'
train, val = (loader.dataset.sources.k400 for loader in (_base_.train_dataloader, _base_.val_dataloader))
train_dataloader = dict(
    batch_size=24,
    dataset=dict(
        sources=dict(
            _delete_=True,
            ucf101=dict(train, root=f'{root}/videos', ann_file=f'{root}/ucf101_train_split_1_videos.txt'),
        )
    ),
    batch_sampler=dict(global_batch_size=192),
)
val_dataloader = dict(
    batch_size=24,
    dataset=dict(
        sources=dict(
            _delete_=True, ucf101=dict(val, root=f'{root}/videos', ann_file=f'{root}/ucf101_val_split_1_videos.txt')
        )
    ),
)
