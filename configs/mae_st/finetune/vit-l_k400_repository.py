"""MAE-ST ViT-L, fine-tuned on Kinetics-400: the recipe of MAE-ST's own repository.

Numbers: FINETUNE.md and main_finetune.py of github.com/facebookresearch/mae_st; a rate of 2.4e-3 per 256 samples, 256 a
         step: 128 videos in two crops (2 on each of 64 GPUs, which the file does not say). It differs from
         ``vit-l_k400.py``, which is SlowFast's: the warm-up begins at 0 and the cosine ends at 1e-6, class token and
         positions are spared weight decay, it trains in float32, and its tests (main_test.py) take 10 clips x 3 crops.
         The bias of its head begins as PyTorch draws it; ours is zero.
Data: python tools/prepare_dataset.py k400 --root FOLDER
Run:  bash tools/dist_train.sh configs/mae_st/finetune/vit-l_k400_repository.py 8
      (global batch 256 = 8 per GPU x 8 GPUs x 4 accumulated micro-batches;
      from other weights, theirs or ours: with OMNIMAE_CHECKPOINT=FILE in front)
Test: bash tools/dist_test.sh configs/mae_st/finetune/vit-l_k400_repository.py CHECKPOINT 8
Expect: top-1 of 84.35 (FINETUNE.md). Ours: not yet run.
"""

_base_ = './vit-l_k400.py'

optim_wrapper = dict(
    dtype=None,
    paramwise_cfg=dict(no_decay=('cls_token', 'pos_embed_space', 'pos_embed_time', 'pos_embed_cls')),
)
param_scheduler = dict(start_lr=0.0, end_lr=1e-6)
test_dataloader = dict(dataset=dict(sources=dict(videos=dict(num_clips=10))))
