"""Compute accuracies of stored scores: FILE.npz of tools/test.py --out FILE.json.

python tools/score.py FILE.npz... [--topk 1 5] [--softmax] [--actions actions.csv [--submission FILE.zip]]

Scores of several files of the same samples are averaged, as an ensemble. --actions is in the folder of
EPIC-Kitchens-100. With the official lists beside it, unseen participants and tail classes are scored too. --submission
writes a file for the challenge from scores with or without labels.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from omnimae.stopping import start_tool

if __name__ == '__main__':
    start_tool()  # the imports take seconds

from omnimae.evaluation import count, load_actions, load_scores, load_subsets, make_submission, write_submission
from omnimae.structures import check_out, to_json


def parse_args(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('files', nargs='+', type=Path, metavar='FILE.npz', help='scores of the same samples')
    parser.add_argument('--topk', nargs='+', type=int, metavar='K', help='default: 1 5; 1 with fewer than 5 classes')
    parser.add_argument('--softmax', action='store_true', help='rank by probabilities averaged over views, not logits')
    parser.add_argument('--actions', type=Path, help="EPIC-Kitchens-100's actions.csv: score verbs and nouns too")
    parser.add_argument(
        '--submission', type=Path, metavar='FILE.zip', help='write a submission to the EPIC-Kitchens challenge'
    )
    parser.add_argument(
        '--sls', nargs=3, type=int, default=[3, 3, 3], metavar=('PT', 'TL', 'TD'),
        help='levels of supervision in a submission: of pretraining (3: self-supervised on public data), of labels (3: '
        'full, temporal) and of training data (3: the training split, 4: with the validation split); default: 3 3 3; '
        'see github.com/epic-kitchens/sls',
    )  # fmt: skip
    args = parser.parse_args(words)
    if args.submission and not args.actions:
        parser.error('--submission needs --actions')
    return args


def main(words: Sequence[str] | None = None) -> None:
    """Write the submission, and compute metrics."""
    args = parse_args(words)
    if args.submission:
        check_out(args.submission, is_folder=False, name='--submission: ')
    scores = load_scores(args.files)
    actions = None if args.actions is None else load_actions(args.actions)
    if args.submission:
        write_submission(args.submission, make_submission(scores, actions, supervision=args.sls, softmax=args.softmax))
        print(f'{len(scores.ids)} segments are in {args.submission}.', file=sys.stderr)
        if not len(scores.labels):
            return
    subsets = None if actions is None else load_subsets(args.actions.parent)
    metrics = count(scores, topk=args.topk, softmax=args.softmax, actions=actions, subsets=subsets)
    print(to_json({f'accuracy/{name}': value for name, value in metrics.items()}, indent=2))


if __name__ == '__main__':
    main()
