"""EPIC-Kitchens-100: verbs and nouns of actions, the subsets of the challenge, and its submission file."""

from __future__ import annotations

import csv
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
from mmengine.logging import print_log

from omnimae.structures import as_utf8, to_json

from .scores import Scores, accuracy, without_zeros

NUM_VERBS, NUM_NOUNS, NUM_ACTIONS = 97, 300, 100  # of a segment in a submission; the best actions only
NARRATION_ID = re.compile(r'(P\d+)_\d+_\d+')


class Actions(NamedTuple):
    """(A,) verb and noun indices of the actions of EPIC-Kitchens-100."""

    verbs: np.ndarray
    nouns: np.ndarray


class Subsets(NamedTuple):
    """Subsets with scores of their own. None if the official list is missing.

    Attributes:
        unseen: participants whose kitchens are not in the training set, as 'P18'.
        tail_verbs: verbs with few samples in the training set. These classes have 20 % of the samples together.
        tail_nouns: the same for nouns.
    """

    unseen: np.ndarray | None = None
    tail_verbs: np.ndarray | None = None
    tail_nouns: np.ndarray | None = None


SUBSET_FILES = {  # of the official annotations: field of Subsets -> file, column, what its values are
    'unseen': ('EPIC_100_unseen_participant_ids_validation.csv', 'participant_id', str),
    'tail_verbs': ('EPIC_100_tail_verbs.csv', 'verb', int),
    'tail_nouns': ('EPIC_100_tail_nouns.csv', 'noun', int),
}


def load_actions(path: str | Path) -> Actions:
    """Read ``actions.csv``. It has a header ``action,verb,noun``, then three indices a line, each action once."""
    try:
        lines = list(csv.reader(as_utf8(Path(path).read_bytes()).decode().splitlines()))
    except FileNotFoundError:
        raise ValueError(f'actions={str(path)!r} does not exist. prepare_dataset.py ek100 writes it.') from None
    if not lines or lines[0] != ['action', 'verb', 'noun']:
        raise ValueError(f"{path}: line 1 is {lines[:1]}, not 'action,verb,noun'. Let prepare_dataset.py write it.")
    try:
        table = np.array([[int(action), int(verb), int(noun)] for action, verb, noun in lines[1:]])
        table = table[table[:, 0].argsort()]
    except (ValueError, IndexError):
        raise ValueError(f'{path}: every line must hold three whole numbers, action,verb,noun. Correct it.') from None
    if (table[:, 0] != np.arange(len(table))).any():
        raise ValueError(f'{path}: the {len(table)} actions are not numbered from 0 without gaps. Correct it.')
    return Actions(table[:, 1], table[:, 2])


def load_subsets(folder: str | Path) -> Subsets:
    """Read the official lists of unseen participants, tail verbs and tail nouns, in ``folder`` or its annotations/.

    A missing list is logged, and None in the result.
    """
    found, missing = {}, []
    for field, (name, column, kind) in SUBSET_FILES.items():
        file = next((file for file in (Path(folder, name), Path(folder, 'annotations', name)) if file.exists()), None)
        if file is None:
            missing.append(name)
            continue
        lines = as_utf8(file.read_bytes()).decode(errors='replace').splitlines()
        try:
            found[field] = np.array([kind(row[column]) for row in csv.DictReader(lines)])
        except (KeyError, ValueError, TypeError):
            raise ValueError(f'{file}: no column {column!r} of {kind.__name__}. Download the file again.') from None
    if missing:
        print_log(
            f'{folder} lacks {", ".join(missing)}: the scores of unseen participants or tail classes are left out. The '
            'files are in github.com/epic-kitchens/epic-kitchens-100-annotations.',
            'current',
            logging.WARNING,
        )
    return Subsets(**found)


def marginal(probabilities: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """(S, A) of actions, (A,) verb (or noun) of each -> (S, verbs). Sums over the actions with a verb."""
    sums = np.zeros((len(probabilities), parts.max() + 1), np.float64)
    np.add.at(sums.T, parts, probabilities.T)
    return sums


def count_parts(
    scores: Scores, actions: Actions, subsets: Subsets, *, topk: Sequence[int] | None, softmax: bool
) -> dict[str, float]:
    """-> {'verb_top1', 'noun_top1', ...} and {'unseen_action_top1', 'tail_verb_top1', ...}; in percent.

    The subsets are those of the challenge (arXiv:2006.13256, section 5.1, and its evaluation code). They are samples of
    unseen participants, of a tail verb, of a tail noun, and for actions those of either. Empty subsets are left out.
    """
    verbs, nouns = actions.verbs[scores.labels], actions.nouns[scores.labels]
    parts = {
        'action': (scores.ranked(softmax), scores.labels),
        'verb': (without_zeros(marginal(scores.probabilities, actions.verbs)), verbs),
        'noun': (without_zeros(marginal(scores.probabilities, actions.nouns)), nouns),
    }
    result: dict[str, float] = {}
    for name in ('verb', 'noun'):
        found = accuracy(*parts[name], topk)
        result |= {f'{name}_{key}': value for key, value in found.items() if key.startswith('top')}
    rows = {}
    if subsets.unseen is not None:
        matches = [NARRATION_ID.match(name) for name in scores.ids]
        unseen = np.isin([match[1] if match else '' for match in matches], subsets.unseen)
        rows = {f'unseen_{name}': unseen for name in parts}
    tail = {}
    if subsets.tail_verbs is not None:
        tail['verb'] = np.isin(verbs, subsets.tail_verbs)
    if subsets.tail_nouns is not None:
        tail['noun'] = np.isin(nouns, subsets.tail_nouns)
    if len(tail) == 2:
        tail['action'] = tail['verb'] | tail['noun']
    rows |= {f'tail_{name}': which for name, which in tail.items()}
    for name, which in rows.items():
        if which.any():
            ranked, labels = parts[name.split('_')[1]]
            result[f'{name}_top1'] = accuracy(ranked[which], labels[which], (1,))['top1']
    return result


def make_submission(
    scores: Scores, actions: Actions, *, supervision: Sequence[int] = (3, 3, 3), softmax: bool = False
) -> dict[str, Any]:
    """Scores of a test set in the challenge's format, version 0.2, for verbs, nouns and the best actions.

    Without actions the challenge would multiply verbs with nouns. Labels are not needed.

    Args:
        scores: of the segments. Their ids are narration_ids.
        actions: verbs and nouns of the actions.
        supervision: the levels (0 to 5) of pretraining, training labels and training data, see
            https://github.com/epic-kitchens/sls.
        softmax: as in `count`, for the actions.
    """
    if wrong := [name for name in scores.ids.tolist() if not NARRATION_ID.fullmatch(name)]:
        raise ValueError(
            f'{len(wrong)} ids are no narration_id such as P01_101_0, first {wrong[0]!r}. Test with the list that '
            'prepare_dataset.py ek100 writes.'
        )
    if len(supervision) != 3 or not all(level in range(6) for level in supervision):
        raise ValueError(f'supervision={list(supervision)} are not three levels from 0 to 5.')
    check_actions(actions, scores)
    ranked = scores.probabilities if softmax else scores.scores
    if not np.isfinite(ranked).all() or not np.isfinite(scores.probabilities).all():
        raise ValueError('Some scores are not finite, which JSON cannot hold. Take the probabilities (--softmax).')
    best = np.argsort(-ranked, axis=1, kind='stable')[:, :NUM_ACTIONS]
    keys = [f'{verb},{noun}' for verb, noun in zip(*actions, strict=True)]
    verbs, nouns = (marginal(scores.probabilities, parts) for parts in actions)
    results = {}
    for row, name in enumerate(scores.ids):
        results[str(name)] = dict(
            verb=_numbered(verbs[row], NUM_VERBS),
            noun=_numbered(nouns[row], NUM_NOUNS),
            action={keys[action]: float(ranked[row, action]) for action in best[row]},
        )
    levels = dict(zip(('sls_pt', 'sls_tl', 'sls_td'), supervision, strict=True))
    return dict(version='0.2', challenge='action_recognition', **levels, results=results)


def _numbered(values: np.ndarray, size: int) -> dict[str, float]:
    """Class -> score, padded to the challenge's classes. The last ones may be in no action."""
    return {str(number): float(value) for number, value in enumerate(np.pad(values, (0, size - len(values))))}


def write_submission(path: str | Path, submission: dict[str, Any]) -> None:
    """Write the challenge's archive, ``test.json`` in a zip file."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with ZipFile(path, 'w', ZIP_DEFLATED) as archive:
        archive.writestr('test.json', to_json(submission))


def check_actions(actions: Actions, scores: Scores) -> None:
    """Refuse actions of other labels."""
    if len(actions.verbs) != scores.scores.shape[1]:
        raise ValueError(
            f'There are {len(actions.verbs)} actions and scores for {scores.scores.shape[1]} classes. '
            'Give the actions.csv that the labels were made with.'
        )
