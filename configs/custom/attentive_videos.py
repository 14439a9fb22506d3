"""An attentive probe on your own videos, as ``attentive_images.py``, in OMNIMAE_LABELLED/videos/{train,val}/CLASS/*.

Tested on 5 clips x 3 crops, validated on one.
Run: OMNIMAE_LABELLED=my/data python tools/train.py configs/custom/attentive_videos.py
Expect: depends on the data. Not yet run on a GPU.
"""

_base_ = 'linear_videos.py'

model = dict(type='AttentiveProbe')
