"""VideoMAE ViT-B, pretrained on UCF101 for 3200 epochs, three quarters of the tokens hidden (arXiv:2203.12602).

Numbers: the released script, cited in the ``_base_`` files. Learning rate 3e-4 per 256 clips, 192 a step.
Run: bash tools/dist_train.sh configs/videomae/vit-b_ucf101.py 8
Hardware of the release: 8 GPUs.
Expect: top-1 of 91.3 on UCF101 after fine-tuning (released).
     Ours: not yet run.
"""

_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/models/videomae_vit-base.py',
    '../_base_/datasets/videomae_ucf101.py',
    '../_base_/schedules/videomae_800e.py',
]

model = dict(mask_generator=dict(video=dict(ratio=0.75)))
optim_wrapper = dict(optimizer=dict(lr=2.25e-4))
param_scheduler = dict(end_lr=7.5e-6)
train_cfg = dict(max_epochs=3200)
