"""MAE-ST ViT-L, pretrained on K400 for 100 epochs of four clips a video, by the recipe of MAE-ST's own repository.

Numbers: PRETRAIN.md of github.com/facebookresearch/mae_st, which differs from the recipe of the released weights. The
         decoder has a class token of its own, separable positions and 16 heads. The predicted frames end with the last
         of the clip. The schedule has a floor of 0 and is shorter. Learning rate 1.6e-3 per 256 videos, 256 a step (2
         on each of 128 GPUs, which the file does not state), each in four clips (1024 samples).
Run: bash tools/dist_train.sh configs/mae_st/vit-l_k400_repository.py 8
     (global batch 1024 = 32 per GPU x 8 GPUs x 4 accumulated micro-batches)
Expect: nothing published. Ours: not yet run.
"""

_base_ = './vit-l_k400.py'

model = dict(
    head=dict(num_heads=16, positions='separable', cls_token=True, target=dict(frames='spread')),
)
train_dataloader = dict(batch_sampler=dict(global_batch_size=1024))
param_scheduler = dict(warmup_epochs=5, start_lr=0.0, end_lr=0.0)
train_cfg = dict(max_epochs=100)
