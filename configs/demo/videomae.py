"""VideoMAE in small, on the demo's videos (arXiv:2203.12602). It shows that the method runs and learns little.

As ``videomae_v2.py``, with one crop a clip. It predicts every token that the encoder does not see, 144 of 288 in tubes.

Data: python tools/prepare_dataset.py demo --root data/demo
Run:  python tools/train.py configs/demo/videomae.py
Expect: not yet run to its end. The tests train two epochs of it.
"""

_base_ = ['videomae_v2.py']

model = dict(mask_generator=dict(video=dict(_delete_=True, type='TubeMasking', ratio=0.5)))
train_dataloader = dict(dataset=dict(sources=dict(videos=dict(replicas=1))))
