r"""EPIC-Kitchens-100, 3,806 actions, as ``python tools/prepare_dataset.py ek100 --root data/epic100`` leaves it.

Clips of 2.7 seconds within the span of an action, without flip. A class is a pair of verb and noun (paper, appendix A).
``actions.csv``, written next to the lists, maps them. It also gives accuracies of verbs and nouns. Those of unseen
participants and tail classes need the authors' lists in the folder or in its annotations/.

The test set has no labels. These commands make the challenge's submission. ``--sls`` has the levels of supervision::

    bash tools/dist_test.sh CONFIG CHECKPOINT 8 --out test.json --cfg-options \
        test_dataloader.dataset.sources.videos.ann_file=data/epic100/epic100_test_list_videos.txt
    python tools/score.py test.npz --actions data/epic100/actions.csv --submission submission.zip --sls 3 3 3
"""

_base_ = './finetune_videos.py'

root = '{{$OMNIMAE_DATA:data}}/epic100'
classifier = dict(num_classes=3806)

rows = dict(root=root, clip_seconds=2.7, classes=f'{root}/classes.txt')
train = dict(rows, ann_file=f'{root}/epic100_train_list_videos.txt')
val = dict(rows, ann_file=f'{root}/epic100_val_list_videos.txt')
train_dataloader = dict(dataset=dict(sources=dict(videos=train)))
val_dataloader = dict(dataset=dict(sources=dict(videos=val)))
test_dataloader = dict(dataset=dict(sources=dict(videos=val)))
val_evaluator = dict(actions=f'{root}/actions.csv')
test_evaluator = val_evaluator
