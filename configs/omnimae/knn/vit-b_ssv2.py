"""k-NN on SSv2, without training. The 20 most similar training clips vote for the class of a validation clip.

Cosine similarity of the mean of normalised tokens, temperature 0.07, as DINO (arXiv:2104.14294), section 4.1.

Run: python tools/test.py configs/omnimae/knn/vit-b_ssv2.py CHECKPOINT
     bash tools/dist_test.sh configs/omnimae/knn/vit-b_ssv2.py CHECKPOINT 8
Not yet run.
"""

_base_ = [
    '../../_base_/default_runtime.py',
    '../../_base_/models/omnimae_vit-base.py',
    '../../_base_/datasets/ssv2_frozen.py',
]

model = dict(
    _delete_=True,
    type='FrozenBackbone',
    data_preprocessor=_base_.model.data_preprocessor,
    backbone=_base_.model.backbone,
)
test_cfg = dict(
    type='KNNTestLoop',
    dtype='bfloat16',  # as pretraining
    num_classes=_base_.num_classes,
    bank_dataloader=dict(_base_.test_dataloader, dataset=dict(type='MixedDataset', sources=dict(videos=_base_.bank))),
)
