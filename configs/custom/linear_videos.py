"""A linear probe on your own videos, as ``linear_images.py``, in OMNIMAE_LABELLED/videos/{train,val}/CLASS/*.

Tested on 5 clips x 3 crops, validated on one.
Run: OMNIMAE_LABELLED=my/data python tools/train.py configs/custom/linear_videos.py
Expect: depends on the data. Not yet run on a GPU.
"""

_base_ = '../omnimae/linear/vit-b_ssv2.py'

follow_run = True  # the model has the sizes of the checkpoint's run, if that is one: its folder, or a file in it
root = '{{$OMNIMAE_LABELLED:data/custom_labelled}}/videos'
files = dict(ann_file=None, allow_outside=False, num_classes=None)
train = dict(files, root=f'{root}/train')
val = dict(files, root=f'{root}/val')
model = dict(num_classes=None)  # as many as the training data have
train_dataloader = dict(
    batch_size=32,
    num_workers=4,
    dataset=dict(sources=dict(videos=train)),
    batch_sampler=dict(global_batch_size=256),
)
val_dataloader = dict(num_workers=4, dataset=dict(sources=dict(videos=val)))
test_dataloader = dict(num_workers=4, dataset=dict(sources=dict(videos=val)))
val_evaluator = dict(topk=(1,))
test_evaluator = dict(topk=(1,))
optim_wrapper = dict(optimizer=dict(lr=0.1))
