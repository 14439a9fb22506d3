"""MultiMAE on video, in small, with clips of RGB and of depth. It shows that the method runs and learns little.

The components of ``multimae.py``. Patches are tubelets of 2 frames, and 108 of 576 tokens are visible. No model of
several modalities of video is published. `place_table` in ``omnimae/models/multimodal_vit.py`` and
`AlignedVideoDataset` say what differs from images. Depth is a stand-in, see ``multimae.py``.

Data: python tools/prepare_dataset.py demo --root data/demo
Run:  python tools/train.py configs/demo/multimae_video.py
Expect: not yet run to its end. The tests train two epochs of it.
"""

_base_ = ['multimae.py']

patches = dict(type='PatchTokenizer', patch_size=_base_.backbone.patch_size, clip_size=_base_.clip_size)

model = dict(
    backbone=dict(tokenizers=dict(_delete_=True, rgb=dict(patches, channels=3), depth=dict(patches, channels=1))),
    head=dict(
        _delete_=True,
        rgb=dict(_base_.head, error='mse'),
        depth=dict(_base_.head, error='l1'),
        norm_rgb=dict(_base_.head, modality='rgb', error='mse', target=dict(type='PixelTarget', normalize='patch')),
    ),
)
train, val = (
    dict(
        type='AlignedVideoDataset',
        root=_base_.data_root,
        ann_file=f'{_base_.data_root}/depth/videos/{split}.txt',
        modalities=dict(rgb=dict(folder=f'videos/{split}'), depth=dict(folder=f'depth/videos/{split}')),
        clip_seconds=_base_.video.clip_seconds,
        num_frames=_base_.video.num_frames,
        transforms=transforms,
    )
    for split, transforms in (('train', _base_.crop), ('val', _base_.middle))
)
train_dataloader = dict(dataset=dict(sources=dict(_delete_=True, videos=train)))
val_dataloader = dict(dataset=dict(sources=dict(_delete_=True, videos=val)))
