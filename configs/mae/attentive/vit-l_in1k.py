r"""Attentive probe of MAE ViT-L on IN1K, 32 queries that pool its frozen tokens (arXiv:2506.10178).

Recipe: the released code (github.com/billpsomas/efficient-probing) and its command for MAE. It has 90 epochs of LARS
     and a learning rate of 0.1 per 256 samples, here for 4096. It reads the tokens of the image before the final norm,
     without the class token. Crops and backbone are those of ``../linear/vit-l_in1k.py``.
Run: bash tools/dist_train.sh configs/mae/attentive/vit-l_in1k.py 8
     (global batch 4096 = 512 per GPU x 8 GPUs)
     bash tools/dist_test.sh configs/mae/attentive/vit-l_in1k.py \
         work_dirs/mae/attentive/vit-l_in1k/epoch_90_raw.safetensors 8
Expect: top-1 of 79.5 (released code; its linear probe 76.0). Ours: not yet run.
"""

_base_ = '../linear/vit-l_in1k.py'

model = dict(type='AttentiveProbe', norm=None, backbone=dict(pool='mean'))
train_dataloader = dict(batch_sampler=dict(global_batch_size=4096))
optim_wrapper = dict(optimizer=dict(lr=1.6))
train_cfg = dict(max_epochs=90)
