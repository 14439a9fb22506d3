"""An attentive probe on your own images, queries that pool the tokens of a frozen backbone, and a linear layer.

Its accuracy says more about a masked model than that of ``linear_images.py`` (arXiv:2506.10178). Folders, checkpoint
and advice are the same.
Run: OMNIMAE_LABELLED=my/data python tools/train.py configs/custom/attentive_images.py

Numbers: 32 queries and a learning rate of 0.1 per 256 samples, as ``omnimae/attentive/vit-b_in1k.py``.
Expect: depends on the data. Not yet run on a GPU.
"""

_base_ = 'linear_images.py'

model = dict(type='AttentiveProbe')
