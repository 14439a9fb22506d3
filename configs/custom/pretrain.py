"""OmniMAE ViT-B from scratch on your own folders of images and videos, without labels.

Put files into ``data/custom/images`` and ``data/custom/videos``, flat or in sub-folders, or name your folders in the
environment. They may have any size and the usual formats (jpg, png, webp; mp4, avi, mkv, webm, ...).

Run: export OMNIMAE_IMAGES=my/photos OMNIMAE_VIDEOS=my/clips
     python tools/train.py configs/custom/pretrain.py              (1 GPU, or CPU)
     bash tools/dist_train.sh configs/custom/pretrain.py 2         (2 GPUs)
     bash tools/dist_train.sh configs/custom/pretrain.py 8         (8 GPUs)

The global batch size is always 256. That is 32 per GPU, and 8, 4 or 1 accumulated micro-batches on 1, 2 or 8 GPUs,
computed and printed at the start. If memory is short, lower train_dataloader.batch_size to 16, 8 or 4. On 1 GPU
batch_size=dict(image=256, video=32) makes steps of images faster.

Numbers: those of ``configs/omnimae/vit-b_in1k-ssv2.py``, except what this file sets. The batch size is smaller, since
own data often is. The learning rate is the release's 1.6e-3 at 2048, scaled to it. Not yet run to the end. These are
starting points.

How much data and how long (rules of thumb, unmeasured). Steps per epoch are printed at the start. Their total matters.
It is 566,400 of 2048 samples in the release's recipe. With fewer than some 100,000 files prefer
``pretrain_from_released.py``, or raise max_epochs, since an epoch is short. With few videos and many images, raise
repeats of the videos until about one step in nine is theirs, the share of the recipe. Watch the held-out loss. If it
rises while the training loss falls, stop or add data.
"""

_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/models/omnimae_vit-base.py',
    '../_base_/datasets/in1k_ssv2.py',
    '../_base_/schedules/omnimae_800e.py',
]

follow_run = True  # the model has the sizes of the checkpoint's run, if that is one: its folder, or a file in it
image_root = '{{$OMNIMAE_IMAGES:data/custom/images}}'
video_root = '{{$OMNIMAE_VIDEOS:data/custom/videos}}'
val_image_root = image_root  # change these two to files that are not trained on
val_video_root = video_root  # until then validation loss and reconstructions are of training files
clip_seconds = 2.7  # duration of a clip of 16 frames; shorter for fast motion, longer for slow

train_sources = _base_.train_dataloader.dataset.sources
val_sources = _base_.val_dataloader.dataset.sources

train_dataloader = dict(
    batch_size=32,
    num_workers=4,  # per GPU; raise it if data_time in the log is above 20 % of time
    dataset=dict(
        sources=dict(
            _delete_=True,
            images=dict(train_sources.in1k, root=image_root),
            videos=dict(
                train_sources.ssv2, root=video_root, ann_file=None, allow_outside=False, clip_seconds=clip_seconds
            ),
        ),
    ),
    # once through all files an epoch; each video is cropped and masked four times
    sampler=dict(repeats=dict(_delete_=True, images=1.0, videos=1.0)),
    batch_sampler=dict(global_batch_size=256),
)
val_dataloader = dict(
    num_workers=4,
    dataset=dict(
        sources=dict(
            _delete_=True,
            images=dict(val_sources.in1k, root=val_image_root),
            videos=dict(
                val_sources.ssv2, root=val_video_root, ann_file=None, allow_outside=False, clip_seconds=clip_seconds
            ),
        ),
    ),
)
optim_wrapper = dict(optimizer=dict(lr=2e-4))
default_hooks = dict(checkpoint=dict(interval=10))
