"""IN1K with pseudo labels, the data of MultiMAE pretraining (arXiv:2204.01678, section 4).

Expected files, under ``data`` or the folder named by the environment variable OMNIMAE_DATA. Names are the same in every
modality, except for their endings::

    imagenet_multimae/{train,val}/rgb/CLASS/*.JPEG     the images (rgb may be a link to imagenet/train)
    imagenet_multimae/{train,val}/depth/CLASS/*.png    16 bits; published: of Omnidata's DPT-Hybrid
    imagenet_multimae/{train,val}/semseg/CLASS/*.png   8 bits, classes 0 to 132 of COCO's panoptic maps; published: of
                                                       Mask2Former with a Swin-S

This package has no network that makes them. The published code has a script for each. Check the files with
``python tools/prepare_dataset.py multimae --root data/imagenet_multimae/train``. If it leaves files out, train with
``--cfg-options train_dataloader.dataset.sources.in1k.ann_file=data/imagenet_multimae/train/aligned_list.txt``. Crops
and flips are the same for all modalities (the paper's appendix A and the released config). RGB and depth are resized
bicubically, classes to the nearest pixel. All follow Pillow's rules, since the released code uses its defaults.
"""

size = 224  # pixels of a crop
data_root = '{{$OMNIMAE_DATA:data}}/imagenet_multimae'
modalities = dict(rgb=dict(), depth=dict(), semseg=dict(kind='classes', stride=4, num_classes=133))

train_dataloader = dict(
    batch_size=256,
    num_workers=10,
    persistent_workers=True,
    pin_memory=True,
    dataset=dict(
        type='MixedDataset',
        sources=dict(
            in1k=dict(
                type='AlignedDataset',
                root=f'{data_root}/train',
                modalities=modalities,
                transforms=[
                    dict(
                        type='RandomResizedCrop', size=size, scale=(0.2, 1.0), interpolation='bicubic', depth='bicubic'
                    ),
                    dict(type='Flip', prob=0.5),
                ],
            ),
        ),
    ),
    sampler=dict(type='MixedSampler'),
    batch_sampler=dict(type='MixedBatchSampler', global_batch_size=2048),
    collate_fn=dict(type='collate_clips'),
)
val_dataloader = dict(
    batch_size=256,
    num_workers=10,
    persistent_workers=True,
    pin_memory=True,
    dataset=dict(
        type='MixedDataset',
        sources=dict(
            in1k=dict(
                type='AlignedDataset',
                root=f'{data_root}/val',
                modalities=modalities,
                transforms=[
                    dict(type='ResizeShort', size=size, interpolation='bicubic', depth='bicubic'),
                    dict(type='CenterCrop', size=size),
                ],
            ),
        ),
    ),
    sampler=dict(type='EvalSampler'),
    batch_sampler=dict(type='EvalBatchSampler'),
    collate_fn=dict(type='collate_clips'),
)
val_cfg = dict(type='ValLoop')
val_evaluator = dict(type='ReconstructionLoss')
