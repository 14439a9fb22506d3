"""MAE-ST ViT-L, fine-tuned on Kinetics-400, by the recipe of MAE-ST's own repository.

Numbers: FINETUNE.md and main_finetune.py of github.com/facebookresearch/mae_st. Learning rate 2.4e-3 per 256 samples,
         256 a step. These are 128 videos in two crops (2 on each of 64 GPUs, which the file does not state). It differs
         from SlowFast's ``vit-l_k400.py``. The warm-up begins at 0 and the cosine ends at 1e-6. Class token and
         positions have no weight decay. It trains in float32. Its tests (main_test.py) take 10 clips x 3 crops. PyTorch
         draws the initial bias of its head. Ours is zero.
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
