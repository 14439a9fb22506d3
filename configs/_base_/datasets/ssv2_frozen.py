"""SSv2 for frozen evaluation, one clip each. The validation videos are tested, the training videos are the ``bank``.

Expected files, under ``data`` or the folder named by the environment variable OMNIMAE_DATA::

    sthv2/videos/*.webm    sthv2/sthv2_{train,val}_list_videos.txt    (lines: NAME.webm LABEL)

Clips of 2.7 seconds, as in fine-tuning: paper (arXiv:2206.08356), B.2.
"""

size = 224  # pixels of a crop
data_root = '{{$OMNIMAE_DATA:data}}'
num_classes = 174

bank = dict(
    type='VideoDataset',
    root=f'{data_root}/sthv2/videos',
    allow_outside=True,  # prepare_dataset.py --short-side writes ../videos_SIZE/NAME.mp4
    ann_file=f'{data_root}/sthv2/sthv2_train_list_videos.txt',
    num_classes=num_classes,
    clip_seconds=2.7,
    num_frames=16,
    transforms=[dict(type='ResizeShort', size=size, interpolation='bilinear'), dict(type='CenterCrop', size=size)],
)
queries = dict(bank, ann_file=f'{data_root}/sthv2/sthv2_val_list_videos.txt')
test_dataloader = dict(
    batch_size=16,
    num_workers=10,
    persistent_workers=True,
    pin_memory=True,
    dataset=dict(type='MixedDataset', sources=dict(videos=queries)),
    sampler=dict(type='EvalSampler'),
    batch_sampler=dict(type='EvalBatchSampler'),
    collate_fn=dict(type='collate_clips'),
)
test_evaluator = dict(type='ClipAccuracy')
