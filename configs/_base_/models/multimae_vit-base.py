"""MultiMAE (arXiv:2204.01678), ViT-B, for images of 224x224 with depth and class maps. 98 of 588 tokens are visible.

Encoder, decoders, targets and losses are those of the paper's section 3, appendix A and the released code
(github.com/EPFL-VILAB/MultiMAE). RGB is predicted twice, as plain pixels and normalised by patch.
"""

head = dict(type='CrossAttentionHead', embed_dim=256, depth=2, num_heads=8)

model = dict(
    type='MultiMAE',
    data_preprocessor=dict(
        type='MultiModalPreprocessor',
        modalities=dict(
            rgb=dict(type='ClipPreprocessor', mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
            depth=dict(type='DepthPreprocessor', trim=0.1),
        ),
    ),
    backbone=dict(
        type='MultiModalViT',
        arch='base',
        num_global_tokens=1,
        # frames, height, width; class maps have a quarter of the height and width
        tokenizers=dict(
            rgb=dict(type='PatchTokenizer', channels=3, patch_size=(1, 16, 16), clip_size=(1, 224, 224)),
            depth=dict(type='PatchTokenizer', channels=1, patch_size=(1, 16, 16), clip_size=(1, 224, 224)),
            semseg=dict(
                type='ClassMapTokenizer', num_classes=133, class_dim=64, patch_size=(1, 4, 4), clip_size=(1, 56, 56)
            ),
        ),
    ),
    mask_generator=dict(type='DirichletMasking', num_visible=98, alpha=1.0),
    head=dict(
        rgb=dict(head, error='mse'),
        depth=dict(head, error='l1'),
        semseg=dict(head, error='cross_entropy', float32=True),
        norm_rgb=dict(head, modality='rgb', error='mse', target=dict(type='PixelTarget', normalize='patch')),
    ),
)

# A config takes it with `model = _base_.sizes.large`. The release defines this encoder, but has no weights of it.
sizes = dict(large=dict(backbone=dict(arch='large')))
