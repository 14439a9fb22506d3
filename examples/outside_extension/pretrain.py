"""OmniMAE on your own images and on videos that are NumPy arrays, with images hidden but for one band of patches.

Run: export OMNIMAE_IMAGES=my/photos OMNIMAE_ARRAYS=my/arrays PYTHONPATH=examples/outside_extension
     python tools/train.py examples/outside_extension/pretrain.py      (several GPUs: tools/dist_train.sh, as ever)
Expect: an example of a config, not of a recipe; its first steps run in tests/test_extension.py.
"""

_base_ = '../../configs/custom/pretrain.py'

custom_imports = dict(imports=['my_parts'])  # a module on PYTHONPATH; it registers its classes
array_root = '{{$OMNIMAE_ARRAYS:data/custom/arrays}}'
train_transforms = _base_.train_dataloader.dataset.sources.videos.transforms
val_transforms = _base_.val_dataloader.dataset.sources.videos.transforms

model = dict(mask_generator=dict(image=dict(_delete_=True, type='BandMasking', rows=2)))
videos = dict(_delete_=True, type='ArrayVideos', root=array_root, num_frames=16)
train_dataloader = dict(
    dataset=dict(sources=dict(videos=dict(videos, replicas=4, transforms=train_transforms))),
)
val_dataloader = dict(
    dataset=dict(sources=dict(videos=dict(videos, transforms=val_transforms))),
)
