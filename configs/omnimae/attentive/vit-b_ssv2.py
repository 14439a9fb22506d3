r"""Attentive probe on SSv2, as ``vit-b_in1k.py``, on clips.

Nobody published a recipe for clips. This is the one for images (arXiv:2506.10178) with the batch size, learning rate,
crops and test views of ``../linear/vit-b_ssv2.py``. The learning rate is 0.1 per 256 samples in both.

Run: bash tools/dist_train.sh configs/omnimae/attentive/vit-b_ssv2.py 8
     (global batch 1024 = 64 per GPU x 8 GPUs x 2 accumulated micro-batches)
     bash tools/dist_test.sh configs/omnimae/attentive/vit-b_ssv2.py \
         work_dirs/omnimae/attentive/vit-b_ssv2/epoch_90_raw.safetensors 8
Not yet run.
"""

_base_ = '../linear/vit-b_ssv2.py'

model = dict(type='AttentiveProbe')
