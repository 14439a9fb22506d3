"""MultiMAE's ViT-B with the head of ``dense_vit-base.py``. A config selects the modalities from ``tokenizers``.

``init_cfg`` loads the encoder of any checkpoint, of a plain ViT too. The default is MultiMAE's released one of 1600
epochs.
"""

_base_ = './dense_vit-base.py'

tokenizers = dict(
    rgb=dict(type='PatchTokenizer', channels=3, patch_size=(1, 16, 16), clip_size=(1, 224, 224)),
    depth=dict(type='PatchTokenizer', channels=1, patch_size=(1, 16, 16), clip_size=(1, 224, 224)),
)

model = dict(
    backbone=dict(_delete_=True, type='MultiModalViT', arch='base', drop_path_rate=0.1),
    init_cfg=dict(
        checkpoint='{{$OMNIMAE_CHECKPOINT:https://github.com/EPFL-VILAB/MultiMAE/releases/download/pretrained-weights/multimae-b_98_rgb%2B-depth-semseg_1600e_multivit-afff3f8c.pth}}',  # noqa: E501
    ),
)
