"""What pretraining and fine-tuning of the demo share. It is a ViT of 0.5 M parameters, and the data.

A clip has 4 frames of 96x96 pixels, spread over 2 seconds, and 288 tokens. An image has 144.
"""

_base_ = ['../../_base_/default_runtime.py']

data_root = '{{$OMNIMAE_DATA:data}}/demo'
clip_size = (4, 96, 96)
backbone = dict(type='SpatioTemporalViT', embed_dim=96, depth=4, num_heads=4, patch_size=(2, 8, 8), clip_size=clip_size)
image = dict(type='ImageDataset')
video = dict(type='VideoDataset', clip_seconds=2.0, num_frames=clip_size[0])
# no flip, a place has a left and a right
crop = [dict(type='RandomResizedCrop', size=clip_size[1], scale=(0.5, 1.0))]
middle = [dict(type='ResizeShort', size=clip_size[1]), dict(type='CenterCrop', size=clip_size[1])]

train_dataloader = dict(
    batch_size=16,
    num_workers=2,
    persistent_workers=True,
    dataset=dict(
        type='MixedDataset',
        sources=dict(
            images=dict(image, root=f'{data_root}/images/train', transforms=crop),
            videos=dict(
                video, root=f'{data_root}/videos/train', ann_file=f'{data_root}/videos/train.txt', transforms=crop
            ),
        ),
    ),
    sampler=dict(type='MixedSampler'),
    batch_sampler=dict(type='MixedBatchSampler', global_batch_size=16),
    collate_fn=dict(type='collate_clips'),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=0,
    dataset=dict(
        type='MixedDataset',
        sources=dict(
            images=dict(image, root=f'{data_root}/images/val', transforms=middle),
            videos=dict(
                video, root=f'{data_root}/videos/val', ann_file=f'{data_root}/videos/val.txt', transforms=middle
            ),
        ),
    ),
    sampler=dict(type='EvalSampler'),
    batch_sampler=dict(type='EvalBatchSampler'),
    collate_fn=dict(type='collate_clips'),
)
val_cfg = dict(type='ValLoop')
