"""Is any run lost? Trainings of the demo are killed at many moments, resumed, and compared with one that never was.

python benchmarks/kill_and_resume.py --out FOLDER [--moments 25] [--data data/demo] [--cfg-options k=v ...]

Every training is tools/train.py with configs/demo/pretrain.py, shortened, in a process that gets SIGKILL: at a time
drawn from the duration of a whole run, while a checkpoint is being written, or in a validation; with 0 and with 2
loader workers in turn. Then the same command with --resume has to end with the same weights, bit for bit, and no
checkpoint that lies there may be half. Prints a line per moment and writes results.json, where a later call goes on;
exits with 1 if one differs.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from omnimae.checkpoint import load_file
from omnimae.structures import to_json

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / 'configs/demo/pretrain.py'
# A checkpoint every 7 steps, within epochs and at their ends.
OPTIONS = (
    'train_cfg.max_epochs=2',
    'train_cfg.val_interval=1',
    'default_hooks.checkpoint.by_epoch=False',
    'default_hooks.checkpoint.interval=7',
    'default_hooks.logger.interval=1',
    'default_hooks.export.interval=1',
    'train_dataloader.persistent_workers=False',
)
KINDS = ('any time', 'writing', 'any time', 'validating', 'writing')  # of moments, in turn


def parse_args(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description='Kill trainings of the demo, resume them, compare their weights.')
    parser.add_argument('--out', type=Path, required=True, metavar='FOLDER', help='where the runs go')
    parser.add_argument('--moments', type=int, default=25)
    parser.add_argument('--data', type=Path, default=Path('data/demo'), help='made by tools/prepare_dataset.py demo')
    parser.add_argument('--cfg-options', nargs='+', default=[], metavar='k=v', help='further ones of tools/train.py')
    return parser.parse_args(words)


def start(work: Path, workers: int, *words: str) -> int:
    """Fork a process that runs tools/train.py, whose imports are done; its id."""
    arguments = [str(CONFIG), '--work-dir', str(work), *words, f'train_dataloader.num_workers={workers}']
    work.mkdir(parents=True, exist_ok=True)
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        with (work / 'output.txt').open('a') as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        sys.argv = ['tools/train.py', *arguments]
        _train_tool().main()
        status = 0
    except SystemExit as end:
        status = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def _train_tool():
    spec = importlib.util.spec_from_file_location('train', ROOT / 'tools/train.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def finish(process: int, work: Path) -> None:
    """Wait for a training.

    Raises:
        RuntimeError: it failed; the message has the end of its output.
    """
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    if status:
        raise RuntimeError(f'The training in {work} ended with {status}:\n{(work / "output.txt").read_text()[-2000:]}')


def kill(process: int, is_time: Callable[[], bool]) -> bool:
    """Send SIGKILL as soon as it is time; False if the process ended before."""
    while not is_time():
        if os.waitpid(process, os.WNOHANG)[0]:
            return False
        time.sleep(0.0005)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return True


def moment(kind: str, work: Path, seconds: float, rng: np.random.Generator) -> Callable[[], bool]:
    """When to kill: a function that says whether it is time."""
    if kind == 'any time':
        end = time.monotonic() + rng.uniform(0, 0.7 * seconds)  # with loader workers it is shorter than the whole run
        return lambda: time.monotonic() > end
    if kind == 'validating':
        count = int(rng.integers(1, 3))
        return lambda: sum(path.read_text().count('Epoch(val)') for path in work.glob('*/*.log')) >= count
    remaining, seen = int(rng.integers(1, 6)), set[tuple[str, int]]()

    def is_writing() -> bool:
        for path in work.glob('*.tmp'):
            with suppress(FileNotFoundError):  # it has taken its name meanwhile
                seen.add((path.name, path.stat().st_ino))
        return len(seen) >= remaining

    return is_writing


def same_weights(one: Path, other: Path) -> bool:
    """Whether two exports hold the same tensors, bit for bit."""
    a, b = load_file(one)[0], load_file(other)[0]
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def run_all(out: Path, moments: int, words: Sequence[str]) -> list[dict]:
    """One row per moment; those in results.json are there already."""
    words = ['--cfg-options', *OPTIONS, *words]
    results = out / 'results.json'
    done = json.loads(results.read_text()) if results.exists() else dict(seconds=None, rows=[])
    if done['seconds'] is None:
        shutil.rmtree(out / 'whole', ignore_errors=True)
        begin = time.monotonic()
        finish(start(out / 'whole', 0, *words), out / 'whole')
        done['seconds'] = time.monotonic() - begin
    for number in range(len(done['rows']), moments):
        done['rows'].append(run_one(out, number, done['seconds'], words))
        results.write_text(to_json(done, indent=2) + '\n')
        print(done['rows'][-1], flush=True)
    return done['rows']


def run_one(out: Path, number: int, seconds: float, words: Sequence[str]) -> dict:
    """Train, kill, look at what is left, resume, compare."""
    kind, workers, work = KINDS[number % len(KINDS)], 2 * (number // 2 % 2), out / f'moment_{number:02d}'
    rng = np.random.default_rng(number)
    killed = False
    for share in (1.0, 0.5, 0.25):  # this run may end before its moment: the timed one met a slower machine
        if not killed:
            shutil.rmtree(work, ignore_errors=True)
            killed = kill(start(work, workers, *words), moment(kind, work, share * seconds, rng))
    unfinished = sorted(path.name for path in work.glob('*.tmp'))
    checkpoints = sorted(path.name for path in work.glob('*.pth'))
    broken = [name for name in checkpoints if not _loads(work / name)]
    finish(start(work, workers, '--resume', *words), work)
    [whole] = sorted((out / 'whole').glob('*_raw.safetensors'))[-1:]
    return dict(
        kind=kind,
        workers=workers,
        killed=killed,
        unfinished=unfinished,
        checkpoints=checkpoints,
        broken=broken,
        same=same_weights(whole, work / whole.name),
    )


def _loads(path: Path) -> bool:
    try:
        load_file(path)
    except ValueError:
        return False
    return True


def main() -> None:
    """Run and judge."""
    args = parse_args()
    os.environ['OMNIMAE_DATA'] = str(args.data.absolute().parent)
    torch.set_num_threads(1)  # the processes are forked from this one, and bit for bit means one thread
    rows = run_all(args.out, args.moments, args.cfg_options)
    lost = [row for row in rows if row['broken'] or not row['same']]
    counts = {kind: sum(row['kind'] == kind and row['killed'] for row in rows) for kind in dict.fromkeys(KINDS)}
    print(f'{len(rows)} runs, killed: {counts}; {len(lost)} lost.')
    sys.exit(bool(lost))


if __name__ == '__main__':
    main()
