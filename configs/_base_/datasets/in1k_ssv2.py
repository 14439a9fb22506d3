"""IN1K images and SSv2 videos, the data of OmniMAE pretraining. Their validation sets give a held-out loss.

Expected files, under ``data`` or the folder named by the environment variable OMNIMAE_DATA::

    imagenet/{train,val}/CLASS/*.JPEG
    sthv2/videos/*.webm    sthv2/sthv2_{train,val}_list_videos.txt    (lines: NAME.webm LABEL; labels are not used)

Crops, flips, replicas and batch size are those of the paper (arXiv:2206.08356), B.1, Table 3. It resizes a clip to a
short side of 256 before it crops. Here the crop is resized once, from the original frame. 2.7 seconds are the paper's
16 frames at 6 a second (section 3.2), as in the release. The number of workers is the release's too. A step has 2048
samples of one modality, replicas included. A video is decoded once for four of them. A quarter of the videos makes an
epoch, as in the release, so it has 626 + 82 = 708 steps.
"""

size = 224  # pixels of a crop
num_frames = 16  # of a clip
data_root = '{{$OMNIMAE_DATA:data}}'

train_dataloader = dict(
    # Samples per GPU and micro-batch. Replicas count, so 64 clips are 16 videos in 4 crops. Only the speed depends on
    # it. ViT-B on an H200 takes as long for 32 images as for 256. It takes 1.2 times as many clips a second at 64 as at
    # 32, since the host needs 30 ms to launch the kernels of a micro-batch.
    batch_size=dict(image=256, video=64),
    num_workers=10,
    persistent_workers=True,
    pin_memory=True,
    dataset=dict(
        type='MixedDataset',
        sources=dict(
            in1k=dict(
                type='ImageDataset',
                root=f'{data_root}/imagenet/train',
                transforms=[
                    dict(type='RandomResizedCrop', size=size, scale=(0.2, 1.0), interpolation='bicubic'),
                    dict(type='Flip', prob=0.5),
                ],
            ),
            ssv2=dict(
                type='VideoDataset',
                root=f'{data_root}/sthv2/videos',
                allow_outside=True,  # prepare_dataset.py --short-side writes ../videos_SIZE/NAME.mp4
                ann_file=f'{data_root}/sthv2/sthv2_train_list_videos.txt',
                clip_seconds=2.7,
                num_frames=num_frames,
                replicas=4,
                # no flip: "from left to right" is a label of this data set
                transforms=[
                    dict(type='RandomResizedCrop', size=size, scale=(0.08, 1.0), interpolation='bilinear'),
                ],
            ),
        ),
    ),
    sampler=dict(type='MixedSampler', repeats=dict(in1k=1.0, ssv2=0.25)),
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
            in1k=dict(
                type='ImageDataset',
                root=f'{data_root}/imagenet/val',
                transforms=[
                    dict(type='ResizeShort', size=size, interpolation='bicubic'),
                    dict(type='CenterCrop', size=size),
                ],
            ),
            ssv2=dict(
                type='VideoDataset',
                root=f'{data_root}/sthv2/videos',
                allow_outside=True,  # prepare_dataset.py --short-side writes ../videos_SIZE/NAME.mp4
                ann_file=f'{data_root}/sthv2/sthv2_val_list_videos.txt',
                clip_seconds=2.7,
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
