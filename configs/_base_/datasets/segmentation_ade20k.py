"""ADE20K, 150 classes, as http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip unpacks.

``images/training/ADE_train_00000001.jpg`` belongs to ``annotations/training/ADE_train_00000001.png``. Its class 0 means
none.
"""

_base_ = './segmentation.py'

root = '{{$OMNIMAE_DATA:data}}/ade/ADEChallengeData2016'
task = dict(type='SegmentationTask', num_classes=150)

train = dict(
    rgb=dict(folder='images/training'),
    semseg=dict(kind='classes', folder='annotations/training', reduce_zero_label=True),
)
val = dict(
    rgb=dict(folder='images/validation'),
    semseg=dict(kind='classes', folder='annotations/validation', reduce_zero_label=True),
)
train_dataloader = dict(dataset=dict(sources=dict(images=dict(root=root, modalities=train))))
val_dataloader = dict(dataset=dict(sources=dict(images=dict(root=root, modalities=val))))
test_dataloader = val_dataloader
