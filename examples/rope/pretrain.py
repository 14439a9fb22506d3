"""OmniMAE on your own images and videos, with an encoder that has rotary positions.

Run: export OMNIMAE_IMAGES=my/photos OMNIMAE_VIDEOS=my/videos PYTHONPATH=examples/rope
     python tools/train.py examples/rope/pretrain.py      (several GPUs: tools/dist_train.sh, as ever)
Expect: an example of a backbone, not a recipe; small copies of it are trained, fine-tuned and tested in
tests/test_backbones.py.
"""

_base_ = '../../configs/custom/pretrain.py'

custom_imports = dict(imports=['rope_vit'])  # a module on PYTHONPATH; it registers its classes

model = dict(
    backbone=dict(
        _delete_=True,
        type='RopeViT',
        embed_dim=768,
        depth=12,
        num_heads=12,
        patch_size=(2, 16, 16),
        clip_size=(16, 224, 224),
    ),
)
