"""k-NN accuracy of a backbone on your own images, without any training.

Folders are as in ``finetune.py``, OMNIMAE_LABELLED/images/{train,val}/CLASS/*. The 20 most similar training images vote
for the class of a validation image. The number of classes is that of the folders.
Run: export OMNIMAE_LABELLED=my/data
     python tools/test.py configs/custom/knn_images.py CHECKPOINT
CHECKPOINT is the folder of your run, or the released vitb_pretrain.torch (docs/zoo.md).
Expect: depends on the data. Not yet run on a GPU.
"""

_base_ = '../omnimae/knn/vit-b_in1k.py'

follow_run = True  # the model has the sizes of the checkpoint's run, if that is one: its folder, or a file in it
root = '{{$OMNIMAE_LABELLED:data/custom_labelled}}/images'
train = dict(root=f'{root}/train', num_classes=None)
val = dict(root=f'{root}/val', num_classes=None)
test_dataloader = dict(num_workers=4, dataset=dict(sources=dict(images=val)))
test_cfg = dict(
    num_classes=None,  # as many as the training data have
    bank_dataloader=dict(num_workers=4, dataset=dict(sources=dict(images=train))),
)
test_evaluator = dict(topk=(1,))
