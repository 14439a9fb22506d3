"""The base of all ablations of OmniMAE (arXiv:2206.08356, Table 1 and Figure 5), and the record that its cells share.

Numbers: B.3. ViT-B on IN1K + SSv2, 75 % of the image tokens hidden at random and 90 % of the video tokens in tubes, a
decoder of 4 blocks 384 wide for both modalities, peak learning rate 3e-4, 800 epochs; the rest is Table 3's.
Each cell is one file, named after its table or figure, that changes what it ablates; a cell that is this base is a file
too.
Run: bash tools/dist_train.sh configs/omnimae/ablations/ablation_base.py 8
Hardware of the paper: 64 GPUs of 32 GB.
Expect: top-1 of 82.8 on IN1K and 67.9 on SSv2 after fine-tuning (paper; its std over three pretrainings and two
fine-tunings is 0.3 and 0.7). Ours: not yet run.
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
