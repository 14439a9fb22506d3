"""VideoMAE V2 ViT-g, fine-tuned on Kinetics-400 after Kinetics-710 (arXiv:2303.16727).

Numbers: the released script. Learning rate 1e-5 per 256 videos, 96 a step, each in two crops (192 samples). The head
     takes its rows from that of 710 classes, by the names of the classes. misc/k710_identical_label_merge.json of
     github.com/OpenGVLab/VideoMAEv2 lists classes with two names. Put it next to the videos of K710. (Its
     label_710to400.json serves as ``label_map`` too, for classes in its order.)
Data: python tools/prepare_dataset.py k400 --root FOLDER
Run:  bash tools/dist_train.sh configs/videomae/finetune/v2_vit-g-k710_k400.py 8
      (global batch 192 = 6 per GPU x 8 GPUs x 4 accumulated micro-batches; the release had 32 GPUs;
      from other weights, theirs or ours: with OMNIMAE_CHECKPOINT=FILE in front)
Test: bash tools/dist_test.sh configs/videomae/finetune/v2_vit-g-k710_k400.py CHECKPOINT 8
Expect: top-1 of 88.4 over 5 clips x 3 crops (released). Ours: not yet run.
"""

_base_ = [
    '../../_base_/default_runtime.py',
    '../../_base_/models/videomae_classifier_vit-base.py',
    '../../_base_/datasets/videomae_finetune_k400.py',
    '../../_base_/schedules/videomae_finetune.py',
]

k710 = '{{$OMNIMAE_DATA:data}}/kinetics710'
model = dict(
    _base_.classifier,
    backbone=dict(_base_.sizes.giant.backbone, drop_path_rate=0.25),
    init_cfg=dict(
        type='Checkpoint',
        checkpoint='{{$OMNIMAE_CHECKPOINT:work_dirs/videomae/finetune/v2_vit-g_k710/epoch_35_raw.safetensors}}',
        label_map=dict(
            source=f'{k710}/classes.txt',
            target=f'{_base_.root}/classes.txt',
            renamed=f'{k710}/k710_identical_label_merge.json',
        ),
    ),
)
train_dataloader = dict(batch_size=6, batch_sampler=dict(global_batch_size=192))
optim_wrapper = dict(optimizer=dict(lr=3.75e-6, weight_decay=0.1), paramwise_cfg=dict(layer_decay=0.9))
param_scheduler = dict(warmup_epochs=1, end_lr=3.75e-7)
train_cfg = dict(max_epochs=3, val_interval=1)
