r"""Attentive probe on IN1K, 32 queries that pool the tokens of a frozen ViT-B, and a linear layer.

Recipe: efficient probing (arXiv:2506.10178) and its released code (github.com/billpsomas/efficient-probing). It has 32
queries, 90 epochs of LARS without weight decay, 10 of warm-up, and a learning rate of 0.1 per 256 samples, here for
4096. Data, tests and backbone are those of ``../linear/vit-b_in1k.py``. Tokens are normalised as there. The release
reads them before the final norm.

Run: bash tools/dist_train.sh configs/omnimae/attentive/vit-b_in1k.py 8
     (global batch 4096 = 512 per GPU x 8 GPUs)
     bash tools/dist_test.sh configs/omnimae/attentive/vit-b_in1k.py \
         work_dirs/omnimae/attentive/vit-b_in1k/epoch_90_raw.safetensors 8
Expect: no published number. MAE ViT-B, of images alone, gives 75.5 (linear 67.8). Ours: not yet run.
"""

_base_ = '../linear/vit-b_in1k.py'

model = dict(type='AttentiveProbe')
train_dataloader = dict(batch_sampler=dict(global_batch_size=4096))
optim_wrapper = dict(optimizer=dict(lr=1.6))
