"""OmniMAE on your own images and videos, with an encoder like Hiera-T.

As in Hiera 60 % of the mask units of an image are hidden, and 90 % of those of a video (arXiv:2306.00989, section 3.2).

Run: export OMNIMAE_IMAGES=my/photos OMNIMAE_VIDEOS=my/videos PYTHONPATH=examples/hiera
     python tools/train.py examples/hiera/pretrain.py      (several GPUs: tools/dist_train.sh, as ever)
Expect: an example of a backbone, not a recipe; small copies of it are trained, fine-tuned and tested in
tests/test_backbones.py.
"""

_base_ = '../../configs/custom/pretrain.py'

custom_imports = dict(imports=['hiera_like'])  # a module on PYTHONPATH; it registers its classes

model = dict(
    backbone=dict(_delete_=True, type='HieraLike', clip_size=(16, 224, 224)),
    mask_generator=dict(image=dict(ratio=0.6), video=dict(ratio=0.9)),
)
