"""MAE ViT-H, fine-tuned on ImageNet-1K (arXiv:2111.06377).

Numbers: the released script (github.com/facebookresearch/mae, FINETUNE.md). Learning rate 1e-3 per 256 images, 1024 a
     step. Its other way has the class token instead of the mean of the others, and the norm of pretraining. Use
     ``--cfg-options model.backbone.pool=cls model.pretrained_norm=True``.
Data: python tools/prepare_dataset.py in1k --root FOLDER
Run:  bash tools/dist_train.sh configs/mae/finetune/vit-h_in1k.py 8
      (global batch 1024 = 32 per GPU x 8 GPUs x 4 accumulated micro-batches; the release has 64 GPUs;
      from own weights: with OMNIMAE_CHECKPOINT=work_dirs/mae/vit-h_in1k/epoch_1600_raw.safetensors in front)
Test: bash tools/dist_test.sh configs/mae/finetune/vit-h_in1k.py CHECKPOINT 8
The release logs the best accuracy of all epochs. The log has it next to the last, with its epoch. Its weights are
best_accuracy_top1_epoch_N_raw.safetensors.
Expect: top-1 of 86.9 (released). Ours: not yet run.
"""

_base_ = './vit-b_in1k.py'

model = _base_.sizes.huge
optim_wrapper = dict(optimizer=dict(lr=4e-3), paramwise_cfg=dict(layer_decay=0.75))
train_cfg = dict(max_epochs=50)
