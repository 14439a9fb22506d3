"""k-NN on Kinetics-400, as ``vit-b_ssv2.py``, on the lists of prepare_dataset.py. Clips of 2 seconds.

Data: python tools/prepare_dataset.py k400 --root data/kinetics400
Run:  python tools/test.py configs/omnimae/knn/vit-b_k400.py CHECKPOINT
Not yet run.
"""

_base_ = './vit-b_ssv2.py'

root = '{{$OMNIMAE_DATA:data}}/kinetics400'
num_classes = 400

rows = dict(root=root, clip_seconds=2.0, num_classes=num_classes)
train = dict(rows, ann_file=f'{root}/kinetics400_train_list_videos.txt')
val = dict(rows, ann_file=f'{root}/kinetics400_val_list_videos.txt')
test_dataloader = dict(dataset=dict(sources=dict(videos=val)))
test_cfg = dict(num_classes=num_classes, bank_dataloader=dict(dataset=dict(sources=dict(videos=train))))
