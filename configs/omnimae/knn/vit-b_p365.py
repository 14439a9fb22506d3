"""k-NN on Places365-Standard, as ``vit-b_in1k.py``, on the lists of prepare_dataset.py.

Data: python tools/prepare_dataset.py p365 --root data/places365
Run:  python tools/test.py configs/omnimae/knn/vit-b_p365.py CHECKPOINT
Not yet run.
"""

_base_ = './vit-b_in1k.py'

root = '{{$OMNIMAE_DATA:data}}/places365'
num_classes = 365

rows = dict(root=root, num_classes=num_classes)
train = dict(rows, ann_file=f'{root}/places365_train_list_images.txt')
val = dict(rows, ann_file=f'{root}/places365_val_list_images.txt')
test_dataloader = dict(dataset=dict(sources=dict(images=val)))
test_cfg = dict(num_classes=num_classes, bank_dataloader=dict(dataset=dict(sources=dict(images=train))))
