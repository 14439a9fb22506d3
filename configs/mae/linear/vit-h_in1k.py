r"""Linear probe of MAE ViT-H on IN1K, one linear layer on its frozen class token (arXiv:2111.06377).

Recipe: appendix A and the released code (github.com/facebookresearch/mae). Tests take the centre crop of a short side
     of 256. See ``_base_/schedules/linear_90e.py``. The release says that 50 epochs are enough for ViT-L and ViT-H. The
     backbone is the released one, or the one in the file that OMNIMAE_CHECKPOINT names.
Run: bash tools/dist_train.sh configs/mae/linear/vit-h_in1k.py 8
     (global batch 16384 = 512 per GPU x 8 GPUs x 4 accumulated micro-batches)
     bash tools/dist_test.sh configs/mae/linear/vit-h_in1k.py \
         work_dirs/mae/linear/vit-h_in1k/epoch_50_raw.safetensors 8
Expect: top-1 of 77.2 (released). Ours: not yet run.
"""

_base_ = 'vit-l_in1k.py'

model = dict(
    backbone=dict(arch='huge', patch_size=(1, 14, 14)),
    init_cfg=dict(
        checkpoint='{{$OMNIMAE_CHECKPOINT:https://dl.fbaipublicfiles.com/mae/pretrain/mae_pretrain_vit_huge.pth}}',
    ),
)
