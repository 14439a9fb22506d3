"""Table 1c, decoder: that of MAE for images, and that of VideoMAE for videos.

Width, depth and heads are the defaults of the two releases for ViT-B: 8 blocks, 512 wide, 16 heads of MAE; 4 blocks,
384 wide, 6 heads of VideoMAE. Mask tokens, positions and targets are the base's: the paper names the decoders only.
25.6 and 7.4 M parameters without the mask tokens and the pixel layers; sharing saves a factor of 4 (paper), of 33.0 M
against the 7.4 M of the base of 4.5.

Record: ablation_base.py. Run: bash tools/dist_train.sh configs/omnimae/ablations/table-1c_decoder-separate.py 8
Expect: not yet run.
"""

_base_ = './ablation_base.py'

decoder = _base_.model.head
model = dict(
    head=dict(
        _delete_=True,
        image=dict(decoder, embed_dim=512, depth=8, num_heads=16),
        video=dict(decoder, embed_dim=384, depth=4, num_heads=6),
    ),
)
find_unused_parameters = True  # a batch has one modality, so one decoder gets no gradient
