"""OmniMAE ViT-L, fine-tuned on Kinetics-400 (arXiv:2206.08356).

Numbers: B.2, Table 5. The release has no config of this run.
Data: python tools/prepare_dataset.py k400 --root FOLDER
Run:  bash tools/dist_train.sh configs/omnimae/finetune/vit-l_k400.py 8
      (global batch 512 = 8 per GPU x 8 GPUs x 8 accumulated micro-batches;
      from own weights: with OMNIMAE_CHECKPOINT=work_dirs/.../epoch_N_raw.safetensors in front)
Test: bash tools/dist_test.sh configs/omnimae/finetune/vit-l_k400.py CHECKPOINT 8
The paper reports the last epoch, over 5 clips x 3 crops.
Expect: top-1 over 5 clips x 3 crops 84.0 (Table 2). Ours: not yet run.
"""

_base_ = './vit-b_k400.py'

model = _base_.sizes.large
train_dataloader = dict(batch_sampler=dict(global_batch_size=512))
train_cfg = dict(max_epochs=100)
