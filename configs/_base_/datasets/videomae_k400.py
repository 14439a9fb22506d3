"""K400 videos alone, the data of VideoMAE pretraining. Its validation set gives a held-out loss.

Expected files, under ``data`` or the folder named by the environment variable OMNIMAE_DATA::

    kinetics400/videos_{train,val}/CLASS/*.mp4

Crops and clips are those of the released scripts. They take every fourth frame, 16 in all, whatever the frame rate,
without flip. The release has no held-out loss.
"""

size = 224  # pixels of a crop
num_frames = 16  # of a clip
data_root = '{{$OMNIMAE_DATA:data}}'

train_dataloader = dict(
    batch_size=32,  # clips per GPU and micro-batch; it changes no numbers, only memory
    num_workers=10,
    persistent_workers=True,
    pin_memory=True,
    dataset=dict(
        type='MixedDataset',
        sources=dict(
            k400=dict(
                type='VideoDataset',
                root=f'{data_root}/kinetics400/videos_train',
                sampling='strided',
                stride=4,
                num_frames=num_frames,
                transforms=[dict(type='MultiScaleCrop', size=size)],
            ),
        ),
    ),
    sampler=dict(type='MixedSampler'),
    batch_sampler=dict(type='MixedBatchSampler', global_batch_size=2048),
    collate_fn=dict(type='collate_clips'),
)
val_dataloader = dict(
    batch_size=32,
    num_workers=10,
    persistent_workers=True,
    pin_memory=True,
    dataset=dict(
        type='MixedDataset',
        sources=dict(
            k400=dict(
                type='VideoDataset',
                root=f'{data_root}/kinetics400/videos_val',
                sampling='strided',
                stride=4,
                num_frames=num_frames,
                transforms=[
                    dict(type='ResizeShort', size=size, interpolation='bilinear'),
                    dict(type='CenterCrop', size=size),
                ],
            ),
        ),
    ),
    sampler=dict(type='EvalSampler'),
    batch_sampler=dict(type='EvalBatchSampler'),
    collate_fn=dict(type='collate_clips'),
)
val_evaluator = dict(type='ReconstructionLoss')
val_cfg = dict(type='ValLoop')
