"""VideoMAE in small, fine-tuned. It is ``finetune_videos.py`` from ``videomae.py`` with sparse clips, and shows that it
runs.

Data: python tools/prepare_dataset.py demo --root data/demo
Run:  python tools/train.py configs/demo/videomae_finetune.py
      (after VideoMAE V2: --cfg-options model.init_cfg.checkpoint=work_dirs/demo/videomae_v2/epoch_20_raw.safetensors)
Expect: not yet run to its end. The tests train two epochs of it.
"""

_base_ = ['finetune_videos.py']

model = dict(
    backbone=dict(qkv_bias='qv'),
    dropout=0.5,
    init_cfg=dict(checkpoint='work_dirs/demo/videomae/epoch_20_raw.safetensors'),
)
train_dataloader = dict(dataset=dict(sources=dict(videos=dict(sampling='sparse'))))
val_dataloader = dict(dataset=dict(sources=dict(videos=dict(sampling='sparse', num_clips=2))))
test_dataloader = val_dataloader
