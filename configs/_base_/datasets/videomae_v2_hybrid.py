"""The unlabelled hybrid of VideoMAE V2 (arXiv:2303.16727, section 4.1), as far as it is public, in four crops a clip.

Expected files, under ``data`` or the folder named by the environment variable OMNIMAE_DATA::

    kinetics710/videos_train/**.mp4    K400, K600 and K700 without duplicates and without test videos
    sthv2/                             as in ``in1k_ssv2.py``; its validation set for a held-out loss
    ava/clips/**.mp4                   AVA 2.2 in pieces of 300 frames
    webvid2m/videos/**.mp4

Strides take every fourth frame, of SSv2 every second of its 12 a second (released code). There are about 1.35 M clips.
These four sources make 49, 12.5, 1.5 and 18.5 % of them. The rest were collected from Instagram and are not public. The
release mixes the sources within a step. Here a step has one of them, in random order. The release has one list of all
sources ("PATH 0 -1" and "FOLDER START TOTAL" lines). It serves as the ``ann_file`` of each of them, with ``select`` for
its lines. ``FrameDataset`` reads folders of frames.
"""

_base_ = './videomae_ssv2.py'

root = _base_.data_root
ssv2 = dict(_base_.train_dataloader.dataset.sources.ssv2, replicas=4)
others = dict(ssv2, stride=4, allow_outside=False, ann_file=None)
train_dataloader = dict(
    dataset=dict(
        sources=dict(
            k710=dict(others, root=f'{root}/kinetics710/videos_train'),
            ssv2=ssv2,
            ava=dict(others, root=f'{root}/ava/clips'),
            webvid=dict(others, root=f'{root}/webvid2m/videos'),
        ),
    ),
)
