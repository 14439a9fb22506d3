"""Accuracies by hand, of actions, verbs and nouns too; the file of scores counted again; k-NN of a few points."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from PIL import Image
from test_tools import tool

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
    load_subsets,
    make_submission,
    marginal,
    write_submission,
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


@pytest.mark.parametrize('score', [0.0, -3.0, 1e30])
def test_a_constant_model_is_right_nowhere(score):
    """Wherever its tied classes stand."""
    assert accuracy(np.full((5, 5), score), np.arange(5), topk=(1, 2, 4)) == dict(top1=0, top2=0, top4=0, mean_class=0)


def test_a_tie_counts_where_it_cannot_matter():
    # class 2 is first; 0 and 1 share the second place, so both are surely among the first three and neither of two
    scores = np.tile([1.0, 1.0, 2.0, 0.0], (4, 1))
    result = accuracy(scores, np.arange(4), topk=(1, 2, 3))
    assert result == dict(top1=25, top2=25, top3=75, mean_class=25)


def test_order_of_the_classes_does_not_matter():
    rng = np.random.default_rng(0)
    scores, labels = rng.integers(0, 4, (200, 7)).astype(float), rng.integers(0, 7, 200)  # many ties
    order = rng.permutation(7)
    expected = accuracy(scores, labels, (1, 3))
    assert accuracy(scores[:, order], np.argsort(order)[labels], (1, 3)) == pytest.approx(expected)


def test_a_class_that_nothing_speaks_for_is_never_a_hit():
    scores = np.array([[0.0, -np.inf], [-np.inf, -np.inf]])
    assert accuracy(scores, np.array([1, 0]), (1, 2)) == dict(top1=0, top2=0, mean_class=0)
    probabilities = np.array([[1.0, 0, 0], [0.5, 0.5, 0]])
    scores = Scores(np.array(['a', 'b']), np.array([2, 1]), probabilities, probabilities)
    result = count(scores, topk=(1, 3), softmax=True)
    assert result == dict(top1=0, top3=50, mean_class=0)


def test_more_k_than_classes_is_refused():
    with pytest.raises(ValueError, match=r'topk=\(1, 5\) asks for more than the 3 classes'):
        accuracy(SCORES, LABELS, (1, 5))


@pytest.mark.parametrize(('num_classes', 'names'), [(4, {'top1'}), (5, {'top1', 'top5'}), (9, {'top1', 'top5'})])
def test_top_k_follows_the_number_of_classes(num_classes: int, names: set[str]):
    scores = np.eye(num_classes)
    samples = Scores(np.array(list('abcdefghi'[:num_classes])), np.arange(num_classes), scores, scores)
    assert accuracy(scores, np.arange(num_classes)).keys() == count(samples).keys() == {*names, 'mean_class'}
    metric = ClipAccuracy()
    metric.dataset_meta = dict(a=[str(i) for i in range(num_classes)])
    sources = [SimpleNamespace(modality='image', classes=range(num_classes))]
    assert metric.names_of(SimpleNamespace(names=['a'], sources=sources)) == {*names, 'mean_class'}


def test_more_k_than_classes_is_refused_before_anything_runs():
    metric = ClipAccuracy(topk=(1, 3))
    metric.dataset_meta = dict(known=('a', 'b', 'c'), unknown=None)
    with pytest.raises(ValueError, match=r'topk=\(1, 3\) asks for more than the 2 classes there are. Lower topk'):
        metric.dataset_meta = dict(known=('a', 'b'), unknown=None)


def test_a_label_beyond_the_classes_is_refused():
    with pytest.raises(ValueError, match='A label is 3, but there are scores for 3 classes'):
        accuracy(SCORES, np.array([0, 1, 3, 0]), topk=(1,))


def test_a_label_below_zero_is_refused():
    with pytest.raises(ValueError, match='A label is -1, but there are scores for 3 classes'):
        accuracy(SCORES, np.array([0, -1, 2, 0]), topk=(1,))


def test_no_samples_are_refused():
    with pytest.raises(ValueError, match='no samples with labels, so no accuracy. Test labelled data'):
        accuracy(np.zeros((0, 3)), np.array([], int), topk=(1,))


def test_scores_that_cannot_be_ranked_are_refused():
    for value, what in ((np.nan, 'NaN'), (np.inf, 'infinite')):
        with pytest.raises(ValueError, match=f'scores of 1 of 2 samples are {what}, first of sample 1'):
            accuracy(np.array([[1.0, 0.0], [value, 0.0]]), np.array([0, 0]), topk=(1,))


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


@pytest.mark.parametrize('truth', [10, 0])
def test_depth_behind_the_camera_is_wrong_everywhere(truth):
    result = run_on_maps(DepthScore(), 'depth', [[[-5.0, 0.0]]], [np.full((1, 2), truth, np.int32)])
    assert result['depth/delta3'] == 0
    assert math.isfinite(result['depth/rel'])


@pytest.mark.parametrize('value', [math.nan, math.inf])
def test_depth_that_is_not_finite_is_refused(value):
    with pytest.raises(ValueError, match=r'prediction for 0\.png is not finite\. Take a checkpoint from before'):
        run_on_maps(DepthScore(), 'depth', [[[value, 1.0]]], [np.ones((1, 2), np.int32)])


def test_a_pixel_that_is_predicted_to_have_no_class_is_wrong():
    """Class 0: 1 right of 1 predicted and 2 labelled; class 1 the same."""
    result = run_on_maps(SegmentationScore(), 'classes', maps([[0, 255, 1, 255]]), maps([[0, 0, 1, 1]]))
    assert result == {'segmentation/mIoU': 50, 'segmentation/mAcc': 50, 'segmentation/aAcc': 50}


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


def random_actions() -> tuple[Scores, Actions]:
    """60 segments of four participants; 13 actions of four verbs and five nouns."""
    rng = np.random.default_rng(7)
    pairs = np.array([(verb, noun) for verb in range(4) for noun in range(5) if (verb * 5 + noun) % 3])
    labels = rng.integers(0, 13, 60)
    logits = rng.normal(size=(60, 13))
    logits[np.arange(60), labels] += 1.2
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    ids = np.array([f'P{int(rng.integers(1, 5)):02}_{row % 3 + 1:02}_{row}' for row in range(60)])
    return Scores(ids, labels, logits, probabilities), Actions(*pairs.T)


def write_subsets(folder: Path, unseen=('P02', 'P04'), verbs=(1, 3), nouns=(0, 4)) -> None:
    for name, column, values in (
        ('unseen_participant_ids_validation', 'participant_id', unseen),
        ('tail_verbs', 'verb', verbs),
        ('tail_nouns', 'noun', nouns),
    ):
        (folder / f'EPIC_100_{name}.csv').write_text('\n'.join([column, *map(str, values)]) + '\n')


def test_unseen_participants_and_tail_classes_are_those_of_the_challenge(tmp_path):
    """Numbers of its evaluation code (github.com/epic-kitchens/C1-Action-Recognition) on the same data."""
    (tmp_path / 'annotations').mkdir()
    write_subsets(tmp_path / 'annotations')
    scores, actions = random_actions()
    result = count(scores, topk=(1,), actions=actions, subsets=load_subsets(tmp_path))
    result.pop('mean_class')
    assert result == pytest.approx(
        dict(
            top1=30.0,
            verb_top1=43.333333333333336,
            noun_top1=38.333333333333336,
            unseen_action_top1=23.333333333333332,
            unseen_verb_top1=30.0,
            unseen_noun_top1=30.0,
            tail_action_top1=31.818181818181817,
            tail_verb_top1=36.666666666666664,
            tail_noun_top1=29.166666666666668,
        )
    )
    assert accuracy(scores.scores, scores.labels)['top5'] == pytest.approx(78.33333333333333)


def test_subsets_that_are_not_there_are_left_out_and_named(tmp_path, monkeypatch):
    logged = []
    monkeypatch.setattr('omnimae.evaluation.epic.print_log', lambda text, *args: logged.append(text))
    write_subsets(tmp_path, unseen=['P99'])
    (tmp_path / 'EPIC_100_tail_nouns.csv').unlink()
    scores, actions = random_actions()
    result = count(scores, topk=(1,), actions=actions, subsets=load_subsets(tmp_path))
    assert {*result} == {'top1', 'mean_class', 'verb_top1', 'noun_top1', 'tail_verb_top1'}
    assert logged == [logged[0]]
    assert 'lacks EPIC_100_tail_nouns.csv: the scores of unseen' in logged[0]
    (tmp_path / 'EPIC_100_tail_verbs.csv').write_text('verb_class\n1\n')
    with pytest.raises(ValueError, match=r"EPIC_100_tail_verbs.csv: no column 'verb' of int. Download the file again"):
        load_subsets(tmp_path)


def test_a_submission_holds_what_the_challenge_asks_for(tmp_path):
    scores, actions = random_actions()
    unlabelled = scores._replace(labels=np.array([], int))
    submission = make_submission(unlabelled, actions, supervision=(3, 3, 4))
    write_submission(tmp_path / 'new' / 'test.zip', submission)
    with ZipFile(tmp_path / 'new' / 'test.zip') as archive:
        assert archive.namelist() == ['test.json']
        read = json.loads(archive.read('test.json'))
    results = read.pop('results')
    assert read == dict(version='0.2', challenge='action_recognition', sls_pt=3, sls_tl=3, sls_td=4)
    assert [*results] == scores.ids.tolist()
    verbs, nouns = (marginal(scores.probabilities, part) for part in actions)
    for row, result in enumerate(results.values()):
        assert result.keys() == {'verb', 'noun', 'action'}
        assert [*result['verb']] == [str(verb) for verb in range(97)]
        assert [*result['noun']] == [str(noun) for noun in range(300)]
        assert [*result['verb'].values()] == pytest.approx([*verbs[row], *[0] * 93])
        assert [*result['noun'].values()] == pytest.approx([*nouns[row], *[0] * 295])
        best = [f'{actions.verbs[action]},{actions.nouns[action]}' for action in np.argsort(-scores.scores[row])]
        assert [*result['action']] == best
        assert [*result['action'].values()] == sorted(scores.scores[row], reverse=True)


def test_a_submission_has_the_hundred_best_actions():
    rng = np.random.default_rng(0)
    actions = Actions(np.repeat(np.arange(97), 3), np.arange(97 * 3) % 300)
    probabilities = rng.dirichlet(np.ones(291), 2)
    scores = Scores(np.array(['P01_101_0', 'P01_101_1']), np.array([]), np.log(probabilities), probabilities)
    for softmax, values in ((False, scores.scores), (True, probabilities)):
        for row, result in enumerate(make_submission(scores, actions, softmax=softmax)['results'].values()):
            assert [*result['action'].values()] == sorted(values[row], reverse=True)[:100]


def test_submissions_that_would_be_refused():
    scores, actions = random_actions()
    with pytest.raises(
        ValueError, match=r"1 ids are no narration_id such as P01_101_0, first 'a.mp4'. Test with the l"
    ):
        make_submission(scores._replace(ids=np.array(['a.mp4', *scores.ids[1:]])), actions)
    with pytest.raises(ValueError, match=r'supervision=\[3, 6, 3\] are not three levels from 0 to 5'):
        make_submission(scores, actions, supervision=(3, 6, 3))
    with pytest.raises(ValueError, match='There are 4 actions and scores for 13 classes'):
        make_submission(scores, ACTIONS)
    with pytest.raises(ValueError, match='Some scores are not finite, which JSON cannot hold'):
        make_submission(scores._replace(scores=np.full((60, 13), -np.inf)), actions)


def test_stored_scores_are_counted_and_submitted_from_the_command_line(tmp_path, capsys):
    write_subsets(tmp_path)
    scores, actions = random_actions()
    lines = [f'{number},{verb},{noun}' for number, (verb, noun) in enumerate(zip(*actions, strict=True))]
    (tmp_path / 'actions.csv').write_text('\n'.join(['action,verb,noun', *lines]))
    words = [str(tmp_path / 'test.npz'), '--actions', str(tmp_path / 'actions.csv'), '--topk', '1']
    scores.save(words[0])
    tool('score').main(words)
    printed = json.loads(capsys.readouterr().out)
    expected = count(scores, topk=(1,), actions=actions, subsets=load_subsets(tmp_path))
    assert printed == {f'accuracy/{name}': value for name, value in expected.items()}
    scores._replace(labels=np.array([], int)).save(words[0])
    archive = tmp_path / 'submission.zip'
    tool('score').main([*words, '--submission', str(archive), '--sls', '3', '3', '4'])
    assert json.loads(ZipFile(archive).read('test.json')) == make_submission(scores, actions, supervision=(3, 3, 4))
    assert '60 segments are in' in capsys.readouterr().err
    with pytest.raises(ValueError, match='no samples with labels'):
        tool('score').main(words)
    with pytest.raises(SystemExit):
        tool('score').parse_args([words[0], '--submission', 'x.zip'])


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


def test_each_source_is_counted_by_itself_too(tmp_path):
    """Two pictures, one right; three clips, all right: four of five."""
    metric = ClipAccuracy(topk=(1,), out_file=str(tmp_path / 'scores.npz'))
    for source, labels in (('pictures', [0, 1]), ('clips', [1, 1, 1])):
        answer = torch.tensor([0.1, 0.9])
        batch = dict(ids=[f'{source}{row}' for row in range(len(labels))], labels=torch.tensor(labels), source=source)
        metric.process(batch, [dict(scores=answer, probabilities=answer)] * len(labels))
    result = metric.evaluate(5)
    assert result == pytest.approx(
        {
            'accuracy/top1': 80,
            'accuracy/mean_class': 50,
            'accuracy/pictures/top1': 50,
            'accuracy/pictures/mean_class': 50,
            'accuracy/clips/top1': 100,
            'accuracy/clips/mean_class': 100,
        }
    )
    assert {f'accuracy/{k}': v for k, v in count(load_scores([tmp_path / 'scores.npz']), topk=(1,)).items()} == result


def test_files_of_scores_without_sources_are_read(tmp_path):
    scores = scores_of(PROBABILITIES, [0, 1])
    with open(tmp_path / 'old.npz', 'wb') as file:
        np.savez(file, **{key: value for key, value in scores._asdict().items() if key != 'sources'})
    assert count(load_scores([tmp_path / 'old.npz']), topk=(1,)) == count(scores, topk=(1,))


def test_scores_of_samples_without_labels_are_written_alone(tmp_path):
    sample = dict(scores=torch.tensor([1.0, 2.0]), probabilities=torch.tensor([0.25, 0.75]))
    metric = ClipAccuracy(topk=(1,), out_file=str(tmp_path / 'scores.npz'))
    metric.process(dict(ids=['a', 'b']), [sample, sample])
    assert metric.evaluate(2) == {}
    stored = load_scores([tmp_path / 'scores.npz'])
    assert (stored.ids.tolist(), stored.labels.tolist(), stored.scores.tolist()) == (['a', 'b'], [], [[1, 2], [1, 2]])
    with pytest.raises(ValueError, match='no samples with labels'):
        count(stored, topk=(1,))
    metric.process(dict(ids=['a', 'b']), [sample, sample])
    metric.process(dict(ids=['c'], labels=torch.tensor([1])), [sample])
    with pytest.raises(ValueError, match='1 of 3 samples have labels. Give all sources labels, or test them one by'):
        metric.evaluate(3)


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
    with pytest.raises(
        ValueError, match=r'needs labels, and clip\.mp4 has none\. Give the dataset labels; or an out_file'
    ):
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
    monkeypatch.setattr('omnimae.evaluation.features.MAX_SIMILARITIES', 8)
    assert torch.equal(knn(queries, BANK, BANK_LABELS, 2, k=3), whole)


def test_a_class_without_a_vote_is_in_no_top_k():
    """One neighbour: the top 5 are the top 1. With random features they were 50 %, the lowest classes first."""
    rng = np.random.default_rng(0)
    bank, queries = (
        Features(np.arange(n).astype(str), rng.integers(0, 10, n), rng.normal(size=(n, 8)).astype(np.float32))
        for n in (200, 400)
    )
    result = knn_accuracy(bank, queries, k=1, topk=(1, 5))
    assert result['top5'] == result['top1'] < 20
    result = knn_accuracy(bank, queries, k=3, topk=(3, 5, 10))
    assert result['top3'] == result['top5'] == result['top10'] < 40


def test_equally_near_samples_share_the_votes_that_are_left():
    """Of the four nearest one is nearest; three share the other vote of two, in whatever order they are."""
    query, bank = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0], [0, 1], [0, -1], [0, 2], [-1, 0]])
    first, rest = math.exp(1), 1.0
    for order in ([0, 1, 2, 3, 4], [3, 4, 1, 0, 2]):
        [votes] = knn(query, bank[order], torch.tensor([0, 1, 1, 2, 3])[order], 4, k=2, temperature=1.0)
        assert votes.tolist() == pytest.approx(
            [first / (first + rest), 2 / 3 / (first + rest), 1 / 3 / (first + rest), 0]
        )


def test_features_that_are_all_the_same_tell_nothing():
    same = np.ones((30, 4), np.float32)
    bank = Features(np.arange(30).astype(str), np.repeat(np.arange(3), 10), same)
    for features in (same, 0 * same):
        result = knn_accuracy(bank._replace(features=features), bank._replace(features=features), k=5, topk=(1, 2))
        assert result == dict(top1=0, top2=0, mean_class=0)


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
