"""Does joint pretraining help on the demo? The same fine-tuning from it and from scratch, over seeds and rates.

python benchmarks/demo_transfer.py --out FOLDER [--seeds 0 1 2] [--data data/demo]

Every run goes through tools/train.py with the configs of the demo. For each start the learning rate is the best of
three, chosen by the mean over the seeds, the same choice for both. Runs that are there already are not repeated, so the
script can be stopped and started again. Prints a table and writes table.md and results.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
KINDS = ('videos', 'images')
STARTS = ('pretrained', 'scratch')
RATES = (1e-3, 2e-3, 4e-3)


def parse_args(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description='Fine-tuning from joint pretraining and from scratch, on the demo.')
    parser.add_argument('--out', type=Path, required=True, metavar='FOLDER', help='where the runs go')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--data', type=Path, default=Path('data/demo'), help='made by tools/prepare_dataset.py demo')
    return parser.parse_args(words)


def train(config: str, work: Path, data: Path, *options: str) -> Path:
    """Train a config of the demo, unless that is done; the path of its weights."""
    done = work / 'done'  # the weights are there before the last validation is
    if not done.exists():
        command = [sys.executable, 'tools/train.py', f'configs/demo/{config}.py', '--work-dir', str(work.absolute())]
        environment = {**os.environ, 'OMNIMAE_DATA': str(data.absolute().parent), 'OMP_NUM_THREADS': '1'}
        work.mkdir(parents=True, exist_ok=True)
        with (work / 'output.txt').open('w') as log:
            subprocess.run(
                [*command, '--cfg-options', *options], cwd=ROOT, env=environment, stdout=log, stderr=log, check=True
            )
        done.touch()
    [weights] = work.glob('*_raw.safetensors')
    return weights.absolute()


def accuracy(work: Path) -> float:
    """Top-1 of the last validation, in percent."""
    logs = [json.loads(line) for path in work.glob('*/vis_data/scalars.json') for line in path.open()]
    return [log['accuracy/top1'] for log in logs if 'accuracy/top1' in log][-1]


def run_all(out: Path, seeds: Sequence[int], data: Path) -> list[dict]:
    """One row per fine-tuning: kind, start, lr, seed, top1."""
    rows = []
    for seed in seeds:
        weights = train('pretrain', out / f'pretrain_{seed}', data, f'randomness.seed={seed}')
        for kind in KINDS:
            for start in STARTS:
                for lr in RATES:
                    work = out / f'{kind}_{start}_{lr:g}_{seed}'
                    init = f'model.init_cfg.checkpoint={weights}' if start == 'pretrained' else 'model.init_cfg=None'
                    options = (init, f'optim_wrapper.optimizer.lr={lr}', f'randomness.seed={seed}')
                    train(f'finetune_{kind}', work, data, *options)
                    rows.append(dict(kind=kind, start=start, lr=lr, seed=seed, top1=accuracy(work)))
                    print(rows[-1], flush=True)
    return rows


def table(rows: Sequence[dict]) -> str:
    """Mean and standard deviation over the seeds at each learning rate; the best one of a start is bold."""
    lines = [
        f'| fine-tuned on | start | {" | ".join(f"lr {lr:g}" for lr in RATES)} |',
        '|---' * (2 + len(RATES)) + '|',
    ]
    for kind in KINDS:
        for start in STARTS:
            groups = [
                [row['top1'] for row in rows if (row['kind'], row['start'], row['lr']) == (kind, start, lr)]
                for lr in RATES
            ]
            best = int(np.argmax([np.mean(group) for group in groups]))
            cells = [f'{np.mean(group):.1f} ± {np.std(group, ddof=len(group) > 1):.1f}' for group in groups]
            cells[best] = f'**{cells[best]}**'
            lines.append(f'| {kind} | {start} | {" | ".join(cells)} |')
    return '\n'.join(lines)


def main() -> None:
    """Run what is missing and write the table."""
    args = parse_args()
    rows = run_all(args.out, args.seeds, args.data)
    (args.out / 'results.json').write_text(json.dumps(rows, indent=2) + '\n')
    (args.out / 'table.md').write_text(table(rows) + '\n')
    print(table(rows))


if __name__ == '__main__':
    main()
