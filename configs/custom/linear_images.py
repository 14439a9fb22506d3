"""A linear probe on your own images, one linear layer on a frozen backbone.

Folders are as in ``finetune.py``, OMNIMAE_LABELLED/images/{train,val}/CLASS/*. It starts from OmniMAE's released ViT-B,
or from the checkpoint that OMNIMAE_CHECKPOINT names.
Run: OMNIMAE_LABELLED=my/data python tools/train.py configs/custom/linear_images.py

Numbers: MAE's recipe (arXiv:2111.06377, appendix A), a learning rate of 0.1 per 256 samples. For small sets the number
of steps matters. It is printed at the start. Below 5,000 raise max_epochs (a rule of thumb, unmeasured). Try 1/3 and 3
times the learning rate.
Expect: depends on the data. Not yet run on a GPU.
"""

_base_ = '../omnimae/linear/vit-b_in1k.py'

follow_run = True  # the model has the sizes of the checkpoint's run, if that is one: its folder, or a file in it
root = '{{$OMNIMAE_LABELLED:data/custom_labelled}}/images'
train = dict(root=f'{root}/train', num_classes=None)
val = dict(root=f'{root}/val', num_classes=None)
model = dict(num_classes=None)  # as many as the training data have
train_dataloader = dict(
    batch_size=64,
    num_workers=4,
    dataset=dict(sources=dict(images=train)),
    batch_sampler=dict(global_batch_size=256),
)
val_dataloader = dict(num_workers=4, dataset=dict(sources=dict(images=val)))
test_dataloader = dict(num_workers=4, dataset=dict(sources=dict(images=val)))
val_evaluator = dict(topk=(1,))
test_evaluator = dict(topk=(1,))
optim_wrapper = dict(optimizer=dict(lr=0.1))
