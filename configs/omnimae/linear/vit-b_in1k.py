r"""Linear probe on IN1K, one linear layer on the mean token of a frozen ViT-B.

Recipe: MAE (arXiv:2111.06377), appendix A. The only augmentation is RandomResizedCrop and flip. The layer follows a
batch norm without affine, see ``_base_/schedules/linear_90e.py``. It reads the mean of the normalised tokens, MAE its
class token. Tests take the centre crop of a short side of 224, as in fine-tuning. MAE takes that of 256. The backbone
is the released one, or the one in the file that OMNIMAE_CHECKPOINT names.

Run: bash tools/dist_train.sh configs/omnimae/linear/vit-b_in1k.py 8
     (global batch 16384 = 512 per GPU x 8 GPUs x 4 accumulated micro-batches)
     bash tools/dist_test.sh configs/omnimae/linear/vit-b_in1k.py \
         work_dirs/omnimae/linear/vit-b_in1k/epoch_90_raw.safetensors 8
Expect: the paper has no such number. MAE ViT-B, of images alone, gives 67.8. Ours: not yet run.
"""

_base_ = [
    '../../_base_/default_runtime.py',
    '../../_base_/models/omnimae_vit-base.py',
    '../../_base_/datasets/linear_in1k.py',
    '../../_base_/schedules/linear_90e.py',
]

model = dict(
    _delete_=True,
    type='LinearProbe',
    data_preprocessor=_base_.model.data_preprocessor,
    backbone=_base_.model.backbone,
    num_classes=_base_.num_classes,
    init_cfg=dict(
        type='Checkpoint',
        checkpoint='{{$OMNIMAE_CHECKPOINT:https://dl.fbaipublicfiles.com/omnivore/omnimae_ckpts/vitb_pretrain.torch}}',
    ),
)
default_hooks = dict(checkpoint=dict(interval=10, max_keep_ckpts=1))
