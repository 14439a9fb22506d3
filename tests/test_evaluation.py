"""Accuracies by hand, and the file of scores."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from omnimae.evaluation import ClipAccuracy, ReconstructionLoss, accuracy

SCORES = np.array([[3.0, 2, 1], [0, 2, 1], [1, 0, 2], [5, 4, 0]])
LABELS = np.array([0, 2, 1, 0])


def test_accuracy_of_four_known_samples():
    result = accuracy(SCORES, LABELS, topk=(1, 2))
    assert result == pytest.approx(dict(top1=50.0, top2=75.0, mean_class=100 * (1 + 0 + 0) / 3))


def test_more_k_than_classes_is_refused():
    with pytest.raises(ValueError, match=r'topk=\(1, 5\) asks for more than the 3 classes'):
        accuracy(SCORES, LABELS)


def test_scores_can_be_counted_again_without_the_model(tmp_path):
    file = tmp_path / 'new' / 'scores.npz'
    metric = ClipAccuracy(topk=(1,), out_file=str(file))
    for part in (slice(0, 3), slice(3, 4)):
        batch = dict(ids=[f'video{i}' for i in range(4)][part], labels=torch.tensor(LABELS)[part])
        metric.process(batch, [dict(scores=torch.tensor(row)) for row in SCORES[part]])
    result = metric.evaluate(4)
    stored = np.load(file)
    assert stored['ids'].tolist() == ['video0', 'video1', 'video2', 'video3']
    again = accuracy(stored['scores'], stored['labels'], topk=(1,))
    assert {f'accuracy/{k}': v for k, v in again.items()} == result


def test_samples_without_labels_are_refused():
    with pytest.raises(ValueError, match=r'needs labels, and clip\.mp4 has none'):
        ClipAccuracy().process(dict(ids=['clip.mp4']), [])


def test_reconstruction_loss_is_kept_apart_by_modality():
    metric = ReconstructionLoss()
    for modality, losses in (('image', [1.0, 2.0]), ('video', [4.0])):
        metric.process({}, [dict(modality=modality, loss=torch.tensor(loss)) for loss in losses])
    assert metric.evaluate(3) == {'reconstruction/image': 1.5, 'reconstruction/video': 4.0}
