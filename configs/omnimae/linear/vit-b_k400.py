"""Linear probe on Kinetics-400, as ``vit-b_ssv2.py``, on the lists of prepare_dataset.py. Clips of 2 seconds, flipped.

Data: python tools/prepare_dataset.py k400 --root data/kinetics400
Run:  bash tools/dist_train.sh configs/omnimae/linear/vit-b_k400.py 8
Not yet run.
"""

_base_ = './vit-b_ssv2.py'

root = '{{$OMNIMAE_DATA:data}}/kinetics400'
num_classes = 400

model = dict(num_classes=num_classes)
rows = dict(root=root, clip_seconds=2.0, num_classes=num_classes)
train = dict(rows, ann_file=f'{root}/kinetics400_train_list_videos.txt')
val = dict(rows, ann_file=f'{root}/kinetics400_val_list_videos.txt')
transforms = [dict(type='RandomResizedCrop', size=_base_.size), dict(type='Flip', prob=0.5)]
train_dataloader = dict(dataset=dict(sources=dict(videos=dict(train, transforms=transforms))))
val_dataloader = dict(dataset=dict(sources=dict(videos=val)))
test_dataloader = dict(dataset=dict(sources=dict(videos=val)))
