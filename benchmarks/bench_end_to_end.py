"""Does the loader keep up? A config's own training, started as a user starts it, by the number of loader workers.

python benchmarks/bench_end_to_end.py [--config configs/demo/pretrain.py] [--workers 0 1 2] [--steps 120] [--out FOLDER]
                                      [--cfg-options k=v ...]

Runs tools/train.py until so many optimizer steps are logged and ends it. Prints a table and writes end_to_end.json:
seconds from starting the program to its tenth step, milliseconds of a step, the share of it that is waiting for data,
and samples per second of each modality (replicas count). The first twenty steps do not count in the averages.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
INTERVAL = 10  # steps of a line in the log
WARMUP = 20  # steps


def parse_args(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description="A config's own training by the number of loader workers.")
    parser.add_argument('--config', default='configs/demo/pretrain.py')
    parser.add_argument('--workers', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--steps', type=int, default=120, help=f'optimizer steps, more than {WARMUP}')
    parser.add_argument('--out', type=Path, metavar='FOLDER', help='where end_to_end.json goes')
    parser.add_argument('--cfg-options', nargs='+', default=[], metavar='k=v', help='for tools/train.py')
    args = parser.parse_args(words)
    if args.steps < WARMUP + INTERVAL:
        parser.error(f'--steps {args.steps}: the first {WARMUP} do not count. Give {WARMUP + INTERVAL} or more.')
    return args


def train(config: str, workers: int, steps: int, options: Sequence[str]) -> dict:
    """Train for ``steps`` -> a row of the table.

    Raises:
        RuntimeError: the training ends before; the message has the end of its output.
    """
    options = [
        f'train_dataloader.num_workers={workers}',
        f'train_dataloader.persistent_workers={workers > 0}',
        f'default_hooks.logger.interval={INTERVAL}',
        *options,
    ]
    with tempfile.TemporaryDirectory() as work:
        output = Path(work, 'output.txt')
        command = [sys.executable, 'tools/train.py', config, '--work-dir', work, '--cfg-options', *options]
        begin = time.monotonic()
        with output.open('w') as file:
            process = subprocess.Popen(command, cwd=ROOT, env=os.environ, stdout=file, stderr=file)
        try:
            tenth, logged = None, []
            while len(logged) * INTERVAL < steps:
                time.sleep(0.05)
                ended = process.poll() is not None
                logged = _read_scalars(Path(work))
                if logged and tenth is None:
                    tenth = time.monotonic() - begin
                if ended and len(logged) * INTERVAL < steps:
                    raise RuntimeError(f'{" ".join(command)}:\n{output.read_text()[-2000:]}')
        finally:
            process.terminate()
            process.wait()
    return summarise(logged[: steps // INTERVAL], workers, tenth)


def _read_scalars(work: Path) -> list[dict]:
    lines = [line for path in work.glob('*/vis_data/scalars.json') for line in path.read_text().splitlines(True)]
    # the last line may be half written; validation has no learning rate
    return [row for row in (json.loads(line) for line in lines if line.endswith('\n')) if 'lr' in row]


def summarise(logged: Sequence[dict], workers: int, tenth: float | None) -> dict:
    """Average what ``WARMUP`` steps left of the log."""
    rows = logged[WARMUP // INTERVAL :]
    mean = {
        key: sum(row[key] for row in rows) / len(rows)
        for key in ('time', 'data_time', 'images_per_second', 'clips_per_second')
        if all(key in row for row in rows)
    }
    return dict(workers=workers, tenth_step_seconds=tenth, waiting_share=mean['data_time'] / mean['time'], **mean)


def table(rows: Sequence[dict]) -> str:
    """Markdown."""
    lines = ['| workers | 10th step after | step | waiting for data | images/s | clips/s |', '|---' * 6 + '|']
    for row in rows:
        speeds = [f'{row[key]:.0f}' if key in row else '-' for key in ('images_per_second', 'clips_per_second')]
        lines.append(
            f'| {row["workers"]} | {row["tenth_step_seconds"]:.1f} s | {1000 * row["time"]:.1f} ms '
            f'| {100 * row["waiting_share"]:.1f} % | {" | ".join(speeds)} |'
        )
    return '\n'.join(lines)


def main() -> None:
    """Measure and print."""
    args = parse_args()
    rows = [train(args.config, workers, args.steps, args.cfg_options) for workers in args.workers]
    print(table(rows))
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / 'end_to_end.json').write_text(json.dumps(dict(vars(args), out=None, rows=rows), indent=2) + '\n')


if __name__ == '__main__':
    main()
