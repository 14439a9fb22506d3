"""Classify your own images, videos, or both at once. Copy this file and change what differs.

Put a folder per class into ``data/custom_labelled``, or name another folder. Images and videos have the same classes::

    {images,videos}/{train,val}/CLASS/*        (or lists: ann_file=..., a "path label" a line, classes='names.txt')

Run: export OMNIMAE_LABELLED=my/data
     python tools/train.py configs/custom/finetune.py              (1 GPU, or CPU)
     bash tools/dist_train.sh configs/custom/finetune.py 2         (2 GPUs)
     python tools/test.py configs/custom/finetune.py work_dirs/custom/finetune/epoch_50_raw.safetensors
``finetune_images.py`` is for images alone, ``finetune_videos.py`` for videos alone. The number of classes is that of
the folders. It starts from OmniMAE's released ViT-B, or from the checkpoint that OMNIMAE_CHECKPOINT names, such as the
folder of an own run.

Numbers: those of the video recipes (arXiv:2206.08356, Table 5). Learning rate 1e-3 at 512 samples a step, scaled to 64.
For small sets (rules of thumb, unmeasured) the number of steps matters. It is printed at the start. 5,000 to 20,000 are
usual. With 1,000 files an epoch has some 16, so take 100 epochs and more. With 100,000 files 20 to 30 are enough. First
try 1/2 and 2 times the learning rate. With fewer than about 50 files a class drop mixing (``mixing=None``) and set
layer_decay=0.65, which keeps the lower layers. Look at the k-NN accuracy first (tools/knn.py). It costs one pass over
the data. Remove Flip if left and right distinguish classes.
Expect: depends on the data. Not yet run on a GPU. ``configs/demo/finetune_videos.py`` has measured figures.
"""

_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/models/classifier_vit-base.py',
    '../_base_/schedules/finetune.py',
]

follow_run = True  # the model has the sizes of the checkpoint's run, if that is one: its folder, or a file in it
size = 224  # pixels of a crop; if it differs from the checkpoint's, set interpolate_positions = True too
num_frames = 16  # of a clip
root = '{{$OMNIMAE_LABELLED:data/custom_labelled}}'
crop = dict(type='RandomResizedCrop', size=size, scale=(0.08, 1.0), interpolation='bicubic')
flip = dict(type='Flip', prob=0.5)
middle = [dict(type='ResizeShort', size=size, interpolation='bicubic'), dict(type='CenterCrop', size=size)]
views = [dict(type='ResizeShort', size=size, interpolation='bilinear'), dict(type='ThreeCrop', size=size)]
image = dict(type='ImageDataset')
video = dict(type='VideoDataset', clip_seconds=2.7, num_frames=num_frames)  # shorter for fast motion, longer for slow
image_augment = [crop, flip, dict(type='RandAugment', policy='timm', magnitude=9, num_layers=2)]
video_augment = [crop, flip, dict(type='RandAugment', policy='pytorchvideo', magnitude=7, num_layers=4)]
loader = dict(
    batch_size=16,
    num_workers=4,  # per GPU; raise it if data_time in the log is above 20 % of time
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type='EvalSampler'),
    batch_sampler=dict(type='EvalBatchSampler'),
    collate_fn=dict(type='collate_clips'),
)

model = dict(
    num_classes=None,  # as many as the training data have
    head_init_std=0.01,
    data_preprocessor=dict(erasing=dict(type='RandomErasing', fill='noise', prob=0.25)),
)
train_dataloader = dict(
    batch_size=16,  # samples per GPU and micro-batch
    num_workers=4,
    persistent_workers=True,
    pin_memory=True,
    dataset=dict(
        type='MixedDataset',
        sources=dict(
            images=dict(image, root=f'{root}/images/train', transforms=image_augment),
            videos=dict(video, root=f'{root}/videos/train', transforms=video_augment),
        ),
    ),
    sampler=dict(type='MixedSampler'),
    batch_sampler=dict(type='MixedBatchSampler', global_batch_size=64),
    collate_fn=dict(type='collate_clips'),
)
val_dataloader = dict(
    loader,
    dataset=dict(
        type='MixedDataset',
        sources=dict(
            images=dict(image, root=f'{root}/images/val', transforms=middle),
            videos=dict(video, root=f'{root}/videos/val', transforms=middle),
        ),
    ),
)
val_evaluator = dict(type='ClipAccuracy', topk=(1,))
val_cfg = dict(type='ValLoop')
test_dataloader = dict(
    loader,
    dataset=dict(
        type='MixedDataset',
        sources=dict(
            images=dict(image, root=f'{root}/images/val', transforms=middle),
            videos=dict(video, root=f'{root}/videos/val', num_clips=5, transforms=views),
        ),
    ),
)
test_evaluator = val_evaluator
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(optimizer=dict(lr=1.25e-4))
train_cfg = dict(max_epochs=50, val_interval=5)
