"""k-NN on your own videos, as ``knn_images.py``, in OMNIMAE_LABELLED/videos/{train,val}/CLASS/*, one clip of each.

Run: OMNIMAE_LABELLED=my/data python tools/test.py configs/custom/knn_videos.py CHECKPOINT
Expect: depends on the data. Not yet run on a GPU.
"""

_base_ = '../omnimae/knn/vit-b_ssv2.py'

follow_run = True  # the model has the sizes of the checkpoint's run, if that is one: its folder, or a file in it
root = '{{$OMNIMAE_LABELLED:data/custom_labelled}}/videos'
files = dict(ann_file=None, allow_outside=False, num_classes=None)
train = dict(files, root=f'{root}/train')
val = dict(files, root=f'{root}/val')
test_dataloader = dict(num_workers=4, dataset=dict(sources=dict(videos=val)))
test_cfg = dict(
    num_classes=None,  # as many as the training data have
    bank_dataloader=dict(num_workers=4, dataset=dict(sources=dict(videos=train))),
)
test_evaluator = dict(topk=(1,))
