"""Count the accuracies of stored scores, without the model: what tools/test.py --out FILE.json left in FILE.npz.

python tools/score.py FILE.npz... [--topk 1 5] [--softmax] [--actions actions.csv]

Several files of the same samples are averaged: an ensemble.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from omnimae.evaluation import count, load_actions, load_scores


def parse_args(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description='Count the accuracies of stored scores.')
    parser.add_argument('files', nargs='+', type=Path, metavar='FILE.npz', help='scores of the same samples')
    parser.add_argument('--topk', nargs='+', type=int, default=[1, 5], metavar='K', help='default: 1 5')
    parser.add_argument('--softmax', action='store_true', help='rank by probabilities averaged over views, not logits')
    parser.add_argument('--actions', type=Path, help="EPIC-Kitchens-100's actions.csv: count verbs and nouns too")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> None:
    """Count."""
    args = parse_args(words)
    actions = None if args.actions is None else load_actions(args.actions)
    metrics = count(load_scores(args.files), topk=args.topk, softmax=args.softmax, actions=actions)
    print(json.dumps({f'accuracy/{name}': value for name, value in metrics.items()}, indent=2))


if __name__ == '__main__':
    main()
