"""Segment your own images. Copy this file, set ``num_classes``, and change what differs.

Put images and label maps in two folders with matching file names (photo.jpg, photo.png)::

    OMNIMAE_MAPS/{train,val}/images/*    OMNIMAE_MAPS/{train,val}/labels/*.png

A label map has one channel of 8 bits. Its pixels are class numbers from 0, and 255 is ignored. If 0 means "none" and
the classes count from 1, set reduce_zero_label=True.
Run: export OMNIMAE_MAPS=my/maps
     python tools/train.py configs/custom/segmentation.py
     python tools/predict_maps.py configs/custom/segmentation.py CHECKPOINT my/photos --out-dir maps
It starts from OmniMAE's released ViT-B, or from the checkpoint that OMNIMAE_CHECKPOINT names.

Maps are aligned with the stored pixels, also if EXIF turns a photo. If yours were drawn on the turned photo, set
aligned_as='upright' in both sources.
Numbers: those of ``configs/omnimae/dense/vit-b_ade20k.py``, MultiMAE's recipe. For small sets raise max_epochs until
the run has 10,000 steps or more (a rule of thumb, unmeasured).
Expect: depends on the data. Not yet run on a GPU.
"""

_base_ = '../omnimae/dense/vit-b_ade20k.py'

follow_run = True  # the model has the sizes of the checkpoint's run, if that is one: its folder, or a file in it
num_classes = 2
root = '{{$OMNIMAE_MAPS:data/custom_maps}}'
modalities = dict(
    rgb=dict(folder='images'),
    semseg=dict(folder='labels', reduce_zero_label=False),
)
model = dict(task=dict(num_classes=num_classes))
train_dataloader = dict(
    num_workers=4, dataset=dict(sources=dict(images=dict(root=f'{root}/train', modalities=modalities)))
)
val_dataloader = dict(num_workers=4, dataset=dict(sources=dict(images=dict(root=f'{root}/val', modalities=modalities))))
test_dataloader = val_dataloader
