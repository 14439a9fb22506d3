"""Accuracies by hand, of actions, verbs and nouns too; the file of scores counted again; k-NN of a few points."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image

from omnimae.evaluation import (
    Actions,
    ClipAccuracy,
    DepthScore,
    Features,
    ReconstructionLoss,
    Scores,
    SegmentationScore,
    accuracy,
    count,
    knn,
    knn_accuracy,
    load_actions,
    load_features,
    load_scores,
    marginal,
)

SCORES = np.array([[3.0, 2, 1], [0, 2, 1], [1, 0, 2], [5, 4, 0]])
LABELS = np.array([0, 2, 1, 0])

# Actions: (open, door), (open, box), (cut, box), (cut, onion).
ACTIONS = Actions(verbs=np.array([0, 0, 1, 1]), nouns=np.array([0, 1, 1, 2]))
PROBABILITIES = np.array([[0.3, 0.1, 0.35, 0.25], [0.4, 0.3, 0.2, 0.1]])


def scores_of(probabilities: np.ndarray, labels: list[int], ids: str = 'abcdefgh') -> Scores:
    return Scores(np.array(list(ids[: len(labels)])), np.array(labels), np.log(probabilities), probabilities)


def run_metric(metric: ClipAccuracy, scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """In batches of three samples."""
    probabilities = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    for start in range(0, len(labels), 3):
        rows = range(start, min(start + 3, len(labels)))
        batch = dict(ids=[f'video{row}' for row in rows], labels=torch.tensor(labels[list(rows)]))
        samples = [
            dict(scores=torch.tensor(scores[row]), probabilities=torch.tensor(probabilities[row])) for row in rows
        ]
        metric.process(batch, samples)
    return metric.evaluate(len(labels))


# ---------------------------------------------------------------------------------------------------------------------
# Accuracy


def test_accuracy_of_four_known_samples():
    result = accuracy(SCORES, LABELS, topk=(1, 2))
    assert result == pytest.approx(dict(top1=50.0, top2=75.0, mean_class=100 * (1 + 0 + 0) / 3))


def test_of_equal_scores_the_lower_class_comes_first():
    assert accuracy(np.zeros((3, 3)), np.arange(3), topk=(1, 2)) == pytest.approx(
        dict(top1=100 / 3, top2=200 / 3, mean_class=100 / 3)
    )


def test_more_k_than_classes_is_refused():
    with pytest.raises(ValueError, match=r'topk=\(1, 5\) asks for more than the 3 classes'):
        accuracy(SCORES, LABELS)


def test_more_k_than_classes_is_refused_before_anything_runs():
    metric = ClipAccuracy(topk=(1, 3))
    metric.dataset_meta = dict(known=('a', 'b', 'c'), unknown=None)
    with pytest.raises(ValueError, match=r'topk=\(1, 3\) asks for more than the 2 classes there are. Lower topk'):
        metric.dataset_meta = dict(known=('a', 'b'), unknown=None)


def test_a_label_beyond_the_classes_is_refused():
    with pytest.raises(ValueError, match='A label is 3, but there are scores for 3 classes'):
        accuracy(SCORES, np.array([0, 1, 3, 0]), topk=(1,))


def test_scores_that_are_no_numbers_are_refused():
    with pytest.raises(ValueError, match='scores of 1 of 2 samples are NaN, first of sample 1'):
        accuracy(np.array([[1.0, 0.0], [np.nan, np.nan]]), np.array([0, 0]), topk=(1,))


def test_logits_or_probabilities_are_averaged_over_views():
    # two views of one sample: logits (3, 0) and (0, 2); the sums say class 0, and so do the probabilities
    # (0.953 + 0.119) / 2; with (9, 0), (0, 2), (0, 2) they disagree: 9 > 4, but 1 + 2 * 0.119 < 2 * 0.881
    views = torch.tensor([[9.0, 0], [0, 2], [0, 2]])
    sample = Scores(*(np.array([x]) for x in ('a', 1, views.mean(0).numpy(), views.softmax(1).mean(0).numpy())))
    assert count(sample, topk=(1,))['top1'] == 0
    assert count(sample, topk=(1,), softmax=True)['top1'] == 100


# ---------------------------------------------------------------------------------------------------------------------
# Maps


def run_on_maps(metric, key: str, results: list, targets: list, size: int | None = None) -> dict[str, float]:
    """One sample a batch."""
    for number, (result, target) in enumerate(zip(results, targets, strict=True)):
        batch = dict(ids=[f'{number}.png'], target=torch.as_tensor(target)[None, None, None])
        metric.process(batch, [{key: torch.as_tensor(result)}])
    return metric.evaluate(len(results) if size is None else size)


def maps(*rows: list[list[int]]) -> list[np.ndarray]:
    return [np.array(row, np.uint8) for row in rows]


def test_iou_of_two_samples_by_hand():
    """Class 0: 2 right of 3 predicted and 3 labelled, IoU 2/4; 1: 1 right, 3 and 2, 1/4; 2: 0 of 0 and 1; 3: never."""
    predicted = maps([[0, 0, 1], [1, 1, 1]], [[0, 0, 0]])
    labelled = maps([[0, 0, 1], [0, 2, 255]], [[1, 255, 255]])
    result = run_on_maps(SegmentationScore(), 'classes', predicted, labelled)
    assert result == pytest.approx(
        {
            'segmentation/mIoU': 100 * (2 / 4 + 1 / 4 + 0) / 3,
            'segmentation/mAcc': 100 * (2 / 3 + 1 / 2 + 0) / 3,
            'segmentation/aAcc': 100 * 3 / 6,
        }
    )


def test_iou_is_that_of_the_confusion_matrix():
    rng = np.random.default_rng(0)
    labelled = rng.integers(0, 7, (5, 20, 30)).astype(np.uint8)
    predicted = np.where(rng.random(labelled.shape) < 0.6, labelled, rng.integers(0, 7, labelled.shape)).astype(
        np.uint8
    )
    labelled[rng.random(labelled.shape) < 0.1] = 255
    matrix = np.zeros((7, 7))
    for p, t in zip(predicted.ravel(), labelled.ravel(), strict=True):
        if t != 255:
            matrix[t, p] += 1
    result = run_on_maps(SegmentationScore(), 'classes', list(predicted), list(labelled))
    diagonal = matrix.diagonal()
    assert result['segmentation/mIoU'] == pytest.approx(
        100 * (diagonal / (matrix.sum(0) + matrix.sum(1) - diagonal)).mean()
    )
    assert result['segmentation/mAcc'] == pytest.approx(100 * (diagonal / matrix.sum(1)).mean())
    assert result['segmentation/aAcc'] == pytest.approx(100 * diagonal.sum() / matrix.sum())


def test_depth_of_two_samples_by_hand():
    """Ratios 1, 1.25 (not below), 1.5, 2, and 1.2 in the second; what is below 0 is not known."""
    predicted = [[[1000.0, 1250.0], [1500.0, 1000.0]], [[5.0, 1200.0]]]
    true = [np.array([[1000, 1000], [1000, 2000]], np.int32), np.array([[-1, 1000]], np.int32)]
    result = run_on_maps(DepthScore(), 'depth', predicted, true)
    errors = np.array([0, 250, 500, 1000, 200])
    assert result == pytest.approx(
        {
            'depth/delta1': 100 * 2 / 5,
            'depth/delta2': 100 * 4 / 5,
            'depth/delta3': 100 * 4 / 5,
            'depth/rmse': math.sqrt((errors**2).mean()),
            'depth/rel': (errors / [1000, 1000, 1000, 2000, 1000]).mean(),
        }
    )


def test_depth_behind_the_camera_is_wrong_everywhere():
    result = run_on_maps(DepthScore(), 'depth', [[[-5.0, 0.0]]], [np.array([[10, 10]], np.int32)])
    assert result['depth/delta3'] == 0
    assert math.isfinite(result['depth/rel'])


@pytest.mark.parametrize(('metric', 'key'), [(SegmentationScore, 'classes'), (DepthScore, 'depth')])
def test_samples_that_fill_up_ranks_do_not_count(metric, key):
    """MMEngine repeats samples until all ranks have equally many; ``size`` says how many there are."""
    first, again = np.array([[1, 1], [1, 2]], np.uint8), np.array([[2, 2], [2, 2]], np.uint8)
    results = [first, first, again]
    targets = [first.astype(np.uint8 if key == 'classes' else np.int32)] * 3
    twice, filled = (run_on_maps(metric(), key, results[:n], targets[:n], 2) for n in (2, 3))
    assert filled == twice


def test_predicted_maps_are_written(tmp_path):
    classes, depth = np.array([[0, 200]], np.uint8), np.array([[-3.0, 1234.4], [7e4, 9.6]], np.float32)
    run_on_maps(SegmentationScore(out_dir=str(tmp_path / 'a')), 'classes', [classes], [classes])
    run_on_maps(DepthScore(out_dir=str(tmp_path / 'b')), 'depth', [depth], [np.ones((2, 2), np.int32)])
    written = [np.array(Image.open(tmp_path / folder / '0.png')) for folder in 'ab']
    assert [x.tolist() for x in written] == [[[0, 200]], [[0, 1234], [65535, 10]]]
    assert [x.dtype for x in written] == [np.uint8, np.uint16]


def test_maps_that_cannot_be_scored():
    empty = np.full((2, 2), 255, np.uint8)
    with pytest.raises(ValueError, match='no pixel of the tested samples has a class'):
        run_on_maps(SegmentationScore(), 'classes', [empty], [empty])
    with pytest.raises(ValueError, match='no pixel of known depth'):
        run_on_maps(DepthScore(), 'depth', [empty], [np.full((2, 2), -1)])
    with pytest.raises(ValueError, match=r'prediction for 0.png has \(2, 2\) pixels, the truth \(1, 4\)'):
        run_on_maps(SegmentationScore(), 'classes', [empty], [empty.reshape(1, 4)])
    with pytest.raises(ValueError, match='needs the true maps, and a.png has none'):
        DepthScore().process(dict(ids=['a.png']), [dict(depth=torch.zeros(2, 2))])


# ---------------------------------------------------------------------------------------------------------------------
# EPIC-Kitchens


def test_verbs_and_nouns_are_sums_over_their_actions():
    np.testing.assert_allclose(marginal(PROBABILITIES, ACTIONS.verbs), [[0.4, 0.6], [0.7, 0.3]])
    np.testing.assert_allclose(marginal(PROBABILITIES, ACTIONS.nouns), [[0.3, 0.45, 0.25], [0.4, 0.5, 0.1]])


def test_action_verb_and_noun_accuracies_by_hand():
    # (open, door) and (open, box): the best actions are (cut, box) and (open, door), both wrong; the best verbs cut
    # (wrong) and open (right), the best nouns box (wrong) and box (right)
    result = count(scores_of(PROBABILITIES, [0, 1]), topk=(1, 2), actions=ACTIONS)
    expected = dict(
        top1=0, top2=100, mean_class=0, verb_top1=50, verb_top2=100, noun_top1=50, noun_top2=100,
    )  # fmt: skip
    assert result == pytest.approx(expected)


def test_actions_are_read_in_any_order(tmp_path):
    file = tmp_path / 'actions.csv'
    file.write_text('action,verb,noun\n2,1,1\n0,0,0\n3,1,2\n1,0,1\n')
    actions = load_actions(file)
    np.testing.assert_array_equal(actions, ACTIONS)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        (None, r"actions='.*actions\.csv' does not exist"),
        ('verb,noun\n0,0\n', r"actions\.csv: line 1 is \[\['verb', 'noun'\]\], not 'action,verb,noun'"),
        ('action,verb,noun\n0,take,cup\n', 'every line must hold three whole numbers'),
        ('action,verb,noun\n0,0\n', 'every line must hold three whole numbers'),
        ('action,verb,noun\n', 'every line must hold three whole numbers'),
        ('action,verb,noun\n0,0,0\n2,0,1\n', r'the 2 actions are not numbered from 0 without gaps'),
        ('action,verb,noun\n0,0,0\n0,0,1\n', r'the 2 actions are not numbered from 0 without gaps'),
    ],
)
def test_wrong_files_of_actions_are_refused(tmp_path, text, message):
    file = tmp_path / 'actions.csv'
    if text is not None:
        file.write_text(text)
    with pytest.raises(ValueError, match=message):
        load_actions(file)


def test_actions_must_be_the_classes():
    with pytest.raises(ValueError, match='There are 4 actions and scores for 3 classes'):
        count(scores_of(np.full((1, 3), 1 / 3), [0]), topk=(1,), actions=ACTIONS)


# ---------------------------------------------------------------------------------------------------------------------
# The metric and its file


def test_scores_can_be_counted_again_without_the_model(tmp_path):
    file, actions = tmp_path / 'new' / 'scores.npz', tmp_path / 'actions.csv'
    actions.write_text('action,verb,noun\n0,0,0\n1,0,1\n2,1,1\n')
    scores = np.random.default_rng(0).normal(size=(40, 3))
    labels = np.random.default_rng(1).integers(0, 3, 40)
    for softmax in (False, True):
        metric = ClipAccuracy(topk=(1, 2), softmax=softmax, actions=str(actions), out_file=str(file))
        result = run_metric(metric, scores, labels)
        again = count(load_scores([file]), topk=(1, 2), softmax=softmax, actions=load_actions(actions))
        assert {f'accuracy/{k}': v for k, v in again.items()} == result
    assert np.load(file)['ids'].tolist() == [f'video{i}' for i in range(40)]


def test_an_ensemble_averages_scores(tmp_path):
    parts = [scores_of(np.array([row]), [1]) for row in ([0.6, 0.4], [0.1, 0.9])]
    paths = [tmp_path / f'{i}.npz' for i in range(2)]
    for part, path in zip(parts, paths, strict=True):
        part.save(path)
    assert [count(load_scores([path]), topk=(1,))['top1'] for path in paths] == [0, 100]
    together = load_scores(paths)
    np.testing.assert_allclose(together.probabilities, [[0.35, 0.65]])
    np.testing.assert_allclose(together.scores, np.log([[0.6 * 0.1, 0.4 * 0.9]]) / 2)
    assert count(together, topk=(1,))['top1'] == 100
    parts[1]._replace(ids=np.array(['z'])).save(paths[1])
    with pytest.raises(ValueError, match=r'1\.npz has scores \(1, 2\) of other samples or classes than .*0\.npz'):
        load_scores(paths)


def test_files_that_hold_something_else_are_refused(tmp_path):
    Features(np.array(['a']), np.array([0]), np.zeros((1, 2))).save(tmp_path / 'features.npz')
    with pytest.raises(ValueError, match=r'features\.npz does not hold ids, labels, scores, probabilities'):
        load_scores([tmp_path / 'features.npz'])
    (tmp_path / 'text.npz').write_text('no archive')
    with pytest.raises(ValueError, match=r'text\.npz does not hold ids, labels, features'):
        load_features(tmp_path / 'text.npz')
    with pytest.raises(ValueError, match=r'none\.npz does not exist'):
        load_features(tmp_path / 'none.npz')
    whole = (tmp_path / 'features.npz').read_bytes()
    (tmp_path / 'empty.npz').write_bytes(b'')
    (tmp_path / 'cut.npz').write_bytes(whole[: len(whole) // 2])
    np.save(tmp_path / 'array.npy', np.zeros(3))
    for name in ('empty.npz', 'cut.npz', 'array.npy'):
        with pytest.raises(ValueError, match=f'{name} does not hold ids, labels, features'):
            load_features(tmp_path / name)


def test_a_file_has_the_name_that_was_asked_for(tmp_path):
    Features(np.array(['a']), np.array([0]), np.zeros((1, 2))).save(tmp_path / 'new' / 'features.out')
    assert load_features(tmp_path / 'new' / 'features.out').ids.tolist() == ['a']
    assert [path.name for path in (tmp_path / 'new').iterdir()] == ['features.out']


def test_samples_without_labels_are_refused():
    with pytest.raises(ValueError, match=r'needs labels, and clip\.mp4 has none'):
        ClipAccuracy().process(dict(ids=['clip.mp4']), [])


def test_reconstruction_loss_is_kept_apart_by_modality():
    metric = ReconstructionLoss()
    for modality, losses in (('image', [1.0, 2.0]), ('video', [4.0])):
        metric.process({}, [dict(modality=modality, loss=torch.tensor(loss)) for loss in losses])
    assert metric.evaluate(3) == {'reconstruction/image': 1.5, 'reconstruction/video': 4.0}


# ---------------------------------------------------------------------------------------------------------------------
# k-NN

# Four points, at angles of 0, 90, 180 and 60 degrees; lengths do not count.
BANK = torch.tensor([[2.0, 0], [0, 1], [-5, 0], [0.5, math.sqrt(3) / 2]])
BANK_LABELS = torch.tensor([0, 1, 1, 1])


def test_knn_of_four_points_by_hand():
    # at 0 degrees the cosines are 1, 0, -1, 0.5: the two nearest are the first (class 0) and the last (class 1)
    [votes] = knn(torch.tensor([[3.0, 0]]), BANK, BANK_LABELS, 3, k=2, temperature=0.5)
    weights = math.exp(1 / 0.5), math.exp(0.5 / 0.5)
    assert votes.tolist() == pytest.approx([weights[0] / sum(weights), weights[1] / sum(weights), 0])


def test_a_bank_of_other_classes_is_refused():
    with pytest.raises(ValueError, match=r'label 2, counted from 0, and num_classes=2\. Set num_classes=3'):
        knn(torch.eye(3), torch.eye(3), torch.tensor([0, 1, 2]), 2, k=1)


def test_many_far_neighbours_outvote_a_near_one_only_at_a_high_temperature():
    query = torch.tensor([[1.0, 0.2]])
    votes = [knn(query, BANK, BANK_LABELS, 2, k=4, temperature=t)[0] for t in (0.07, 10.0)]
    assert [int(vote.argmax()) for vote in votes] == [0, 1]


def test_knn_in_parts_is_the_same(monkeypatch):
    queries = torch.randn(7, 2, generator=torch.Generator().manual_seed(0))
    whole = knn(queries, BANK, BANK_LABELS, 2, k=3)
    monkeypatch.setattr('omnimae.evaluation.MAX_SIMILARITIES', 8)
    assert torch.equal(knn(queries, BANK, BANK_LABELS, 2, k=3), whole)


def test_knn_accuracy_of_files(tmp_path):
    bank = Features(np.array(list('abcd')), BANK_LABELS.numpy(), BANK.numpy())
    queries = Features(np.array(list('xy')), np.array([0, 0]), np.array([[1, 0.1], [0, 1]], np.float32))
    bank.save(tmp_path / 'bank.npz')
    assert knn_accuracy(load_features(tmp_path / 'bank.npz'), queries, k=1)['top1'] == 50
    with pytest.raises(ValueError, match=r'k=5 neighbours are more than the 4 samples of the bank'):
        knn_accuracy(bank, queries, k=5)
    with pytest.raises(ValueError, match='The queries have no labels'):
        knn_accuracy(bank, queries._replace(labels=np.array([])))
    with pytest.raises(ValueError, match='Features of 2 and of 3 numbers cannot be compared'):
        knn_accuracy(bank, queries._replace(features=np.zeros((2, 3))))
