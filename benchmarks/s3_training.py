"""Does a training on S3 end like one on a local disk, also when the server is away for a while?

pip install '.[s3,tests]' && python benchmarks/s3_training.py --out FOLDER [--data data/demo] [--cfg-options k=v ...]

A server of S3 runs here (moto), and the demo's data are copied to it. Then tools/train.py runs
configs/demo/pretrain.py, shortened, four times: with the data on the local disk; on S3, with checkpoints there, too; on
S3, while the server is stopped (SIGSTOP) for 15 s; and while it stays stopped, until the training saves and exits with
75, and is resumed. All have to end with the same weights, bit for bit. Prints a table; exits with 1 if one differs.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from fsspec import filesystem

from omnimae.checkpoint import load_file

ROOT = Path(__file__).parents[1]
SAMPLER = 'train_dataloader.sampler.repeats'
OPTIONS = (
    'train_cfg.max_epochs=2',
    'train_cfg.val_interval=2',
    'default_hooks.logger.interval=1',
    f'{SAMPLER}.images=0.2',
    f'{SAMPLER}.videos=0.2',
    'custom_hooks=[]',
)
STEPS = 5  # after which the server is stopped


def parse_args(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description='Train on a local server of S3, and stop it meanwhile.')
    parser.add_argument('--out', type=Path, required=True, metavar='FOLDER', help='where the runs go')
    parser.add_argument('--data', type=Path, default=Path('data/demo'), help='made by tools/prepare_dataset.py demo')
    parser.add_argument('--cfg-options', nargs='+', default=[], metavar='k=v', help='further ones of tools/train.py')
    return parser.parse_args(words)


@contextmanager
def serve(data: Path) -> Iterator[tuple[subprocess.Popen, dict[str, str]]]:
    """A server with a bucket ``data`` that has the demo, and the environment of those who use it."""
    with socket.create_server(('127.0.0.1', 0)) as free:
        port = free.getsockname()[1]
    env = dict(AWS_ACCESS_KEY_ID='id', AWS_SECRET_ACCESS_KEY='secret', AWS_DEFAULT_REGION='us-east-1')
    env |= dict(AWS_ENDPOINT_URL=f'http://127.0.0.1:{port}', OMP_NUM_THREADS='1')
    os.environ.update(env)
    server = subprocess.Popen(
        [sys.executable, '-m', 'moto.server', '-H', '127.0.0.1', '-p', str(port)], stderr=subprocess.DEVNULL
    )
    try:
        while True:
            try:
                socket.create_connection(('127.0.0.1', port)).close()
                break
            except OSError:
                time.sleep(0.1)
        store = filesystem('s3')
        store.mkdir('data')
        store.put(f'{data}/', 'data/demo/', recursive=True)
        yield server, {**os.environ, 'OMNIMAE_DATA': 's3://data'}
    finally:
        server.send_signal(signal.SIGCONT)
        server.terminate()
        server.wait()


def train(work: Path, env: dict[str, str], options: Sequence[str], *words: str) -> subprocess.Popen:
    """Start a training."""
    work.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(ROOT / 'tools/train.py'), str(ROOT / 'configs/demo/pretrain.py'), *words]
    with (work / 'output.txt').open('a') as log:
        return subprocess.Popen(
            [*command, '--work-dir', str(work), '--cfg-options', *options], env=env, stdout=log, stderr=log
        )


def reach(work: Path, text: re.Pattern, process: subprocess.Popen) -> None:
    """Wait until the training has written ``text``."""
    while not text.search((work / 'output.txt').read_text()):
        if process.poll() is not None:
            raise RuntimeError(f'The training ended with {process.returncode}: {work / "output.txt"}')
        time.sleep(0.05)


def weights(work: Path) -> dict[str, Any]:
    """Those that a run ended with."""
    return load_file(work / 'epoch_2_raw.safetensors')[0]


def main(words: Sequence[str] | None = None) -> None:
    """Run it."""
    args = parse_args(words)
    options = [*OPTIONS, *args.cfg_options]
    step = re.compile(rf'Epoch\(train\) +\[1\]\[ *{STEPS}/')
    rows: list[tuple[str, str, float, str]] = []
    expected: dict[str, Any] = {}

    def note(name: str, work: Path, codes: list[int], begin: float) -> None:
        ours = weights(work) if codes[-1] == 0 else {}
        same = all(key in ours and torch.equal(ours[key], value) for key, value in expected.items())
        rows.append((name, ', then '.join(map(str, codes)), time.monotonic() - begin, 'same' if same else 'DIFFER'))
        print(f'{name}: exit codes {codes}, {"same" if same else "OTHER"} weights', flush=True)

    with serve(args.data.resolve()) as (server, env):
        work, begin = args.out / 'local', time.monotonic()
        code = train(work, {**env, 'OMNIMAE_DATA': str(args.data.resolve().parent)}, options).wait()
        expected.update(weights(work))
        note('data on the local disk', work, [code], begin)

        work, begin = args.out / 's3', time.monotonic()
        there = [*options, 'default_hooks.checkpoint.out_dir=s3://data/runs', 'default_hooks.checkpoint.interval=1']
        note('data and checkpoints on S3', work, [train(work, env, there).wait()], begin)
        print('  checkpoints:', [path for path in filesystem('s3').find('data/runs') if path.endswith('.pth')])

        work, begin = args.out / 'moment', time.monotonic()
        short = {**env, 'OMNIMAE_STORAGE_TIMEOUT': '3'}
        process = train(work, short, options)
        reach(work, step, process)
        server.send_signal(signal.SIGSTOP)
        time.sleep(15)
        server.send_signal(signal.SIGCONT)
        note('the server is away for 15 s', work, [process.wait()], begin)

        work, begin = args.out / 'away', time.monotonic()
        short['OMNIMAE_STORAGE_PATIENCE'] = '10'
        process = train(work, short, options)
        reach(work, step, process)
        server.send_signal(signal.SIGSTOP)
        codes = [process.wait()]
        server.send_signal(signal.SIGCONT)
        codes.append(train(work, env, options, '--resume').wait())
        note('the server stays away; resumed when it is back', work, codes, begin)

    print('\n| training | exit code | seconds | weights |\n|---|---|---|---|')
    for name, codes_of, seconds, same in rows:
        print(f'| {name} | {codes_of} | {seconds:.0f} | {same} |')
    if [row[1] for row in rows] != ['0', '0', '0', '75, then 0'] or any(row[3] != 'same' for row in rows):
        raise SystemExit(1)


if __name__ == '__main__':
    main()
