"""How clips are read in fine-tuning, and five clips x three crops in testing. A benchmark's file adds the rest.

16 frames, crops, erasing, RandAugment with 4 layers of magnitude 7, test views and batch size are those of the paper
(arXiv:2206.08356), B.2, Table 5 for SSv2 and EPIC-Kitchens-100. The paper crops bicubically, the release bilinearly.
Both resize to a short side of 256 first. Here the crop is resized once, from the original frame. Erasing to noise after
the normalisation and the head's initial weights are those of the release for SSv2.
"""

size = 224  # pixels of a crop
num_frames = 16  # of a clip
# what these data require of a model
classifier = dict(
    head_init_std=0.01, data_preprocessor=dict(erasing=dict(type='RandomErasing', fill='noise', prob=0.25))
)

train_dataloader = dict(
    batch_size=8,  # clips per GPU and micro-batch, replicas included; the GPU's memory decides
    num_workers=10,
    persistent_workers=True,
    pin_memory=True,
    dataset=dict(
        type='MixedDataset',
        sources=dict(
            videos=dict(
                type='VideoDataset',
                num_frames=num_frames,
                transforms=[
                    dict(type='RandomResizedCrop', size=size, scale=(0.08, 1.0), interpolation='bicubic'),
                    dict(type='RandAugment', policy='pytorchvideo', magnitude=7, num_layers=4),
                ],
            ),
        ),
    ),
    sampler=dict(type='MixedSampler'),
    batch_sampler=dict(type='MixedBatchSampler', global_batch_size=512),
    collate_fn=dict(type='collate_clips'),
)
val_dataloader = dict(
    batch_size=16,
    num_workers=10,
    persistent_workers=True,
    pin_memory=True,
    dataset=dict(
        type='MixedDataset',
        sources=dict(
            videos=dict(
                type='VideoDataset',
                num_frames=num_frames,
                # one view is enough during training: the first clip, the centre crop of its frames
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
val_evaluator = dict(type='ClipAccuracy', topk=(1, 5))
val_cfg = dict(type='ValLoop')
test_dataloader = dict(
    batch_size=2,  # videos of 15 views each
    num_workers=10,
    persistent_workers=True,
    pin_memory=True,
    dataset=dict(
        type='MixedDataset',
        sources=dict(
            videos=dict(
                type='VideoDataset',
                num_frames=num_frames,
                num_clips=5,
                transforms=[
                    dict(type='ResizeShort', size=size, interpolation='bilinear'),
                    dict(type='ThreeCrop', size=size),
                ],
            ),
        ),
    ),
    sampler=dict(type='EvalSampler'),
    batch_sampler=dict(type='EvalBatchSampler'),
    collate_fn=dict(type='collate_clips'),
)
test_evaluator = val_evaluator
test_cfg = dict(type='TestLoop')
