"""The base of all ablations of OmniMAE (arXiv:2206.08356, Table 1 and Figure 5), and the record that its cells share.

Numbers: ViT-B on IN1K + SSv2, 75 % of the image tokens hidden at random and 90 % of the video tokens in tubes, a
decoder of 4 blocks 384 wide for both modalities, peak learning rate 3e-4, 800 epochs; four replicas of a video.
Each cell is one file, named after its table or figure, that changes what it ablates; a cell that is this base is a file
too. Confirmed: this base, and the decoder sizes of Table 1c, by the parameter counts that the paper prints. The grid of
Table 1a and the mask types of Table 1b come from notes on the paper. Of Figure 5 the notes give the quantities, not how
epochs were counted; the docstrings of those cells say what was assumed.
Run: bash tools/dist_train.sh configs/omnimae/ablations/ablation_base.py 8
Hardware of the paper: 64 GPUs of 32 GB.
Expect: not yet run. The paper compares the cells by top-1 on IN1K and SSv2 after fine-tuning.
"""

_base_ = [
    '../../_base_/default_runtime.py',
    '../../_base_/models/omnimae_vit-base.py',
    '../../_base_/datasets/in1k_ssv2.py',
    '../../_base_/schedules/omnimae_800e.py',
]

model = dict(
    mask_generator=dict(
        image=dict(ratio=0.75),
        video=dict(type='TubeMasking', ratio=0.9),
    ),
)
