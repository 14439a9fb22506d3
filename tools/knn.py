"""Compute the k-NN accuracy of stored features, which tools/extract_features.py writes.

python tools/knn.py BANK.npz QUERIES.npz [--k 20] [--temperature 0.07] [--topk 1 5]

Folders of features are read too. To test a checkpoint directly: tools/test.py configs/omnimae/knn/... CHECKPOINT.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from omnimae.stopping import start_tool

if __name__ == '__main__':
    start_tool()  # the imports take seconds

from omnimae.evaluation import knn_accuracy, load_features
from omnimae.structures import to_json


def parse_args(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('bank', type=Path, metavar='BANK.npz', help='features of the training samples')
    parser.add_argument('queries', type=Path, metavar='QUERIES.npz', help='features of the samples to classify')
    parser.add_argument('--k', type=int, default=20, help='neighbours that vote; default: 20')
    parser.add_argument('--temperature', type=float, default=0.07, help='of the softmax over votes; default: 0.07')
    parser.add_argument('--topk', nargs='+', type=int, metavar='K', help='default: 1 5; 1 with fewer than 5 classes')
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> None:
    """Compute the accuracy."""
    args = parse_args(words)
    bank, queries = load_features(args.bank), load_features(args.queries)
    metrics = knn_accuracy(bank, queries, k=args.k, temperature=args.temperature, topk=args.topk)
    print(to_json({f'knn/{name}': value for name, value in metrics.items()}, indent=2))


if __name__ == '__main__':
    main()
