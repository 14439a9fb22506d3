"""OmniMAE ViT-B on your own folders, continuing from the released weights, decoder included.

The weights (1600 epochs on IN1K + SSv2; their licence is CC-BY-NC) are downloaded once, or read from the file that
OMNIMAE_CHECKPOINT names. It may have the released layout or ours. That of an own run may be given by the run's folder:
the model then has the sizes of the run.

Run: export OMNIMAE_IMAGES=my/photos OMNIMAE_VIDEOS=my/clips
     python tools/train.py configs/custom/pretrain_from_released.py           (1 GPU, or CPU)
     bash tools/dist_train.sh configs/custom/pretrain_from_released.py 2      (2 GPUs; 8 for 8 GPUs)

For ViT-L or ViT-H take their ``_base_/models`` file and vitl_pretrain.torch or vith_pretrain.torch. The model must have
the checkpoint's sizes. It has fewer epochs, a shorter warm-up and half the learning rate of ``pretrain.py``, to keep
what was learnt. Not yet run to the end. These are starting points.
"""

_base_ = './pretrain.py'

model = dict(
    init_cfg=dict(
        type='Checkpoint',
        checkpoint='{{$OMNIMAE_CHECKPOINT:https://dl.fbaipublicfiles.com/omnivore/omnimae_ckpts/vitb_pretrain.torch}}',
    ),
)
optim_wrapper = dict(optimizer=dict(lr=1e-4))
param_scheduler = dict(warmup_epochs=5)
train_cfg = dict(max_epochs=100, val_interval=10)
