"""How the cost of pretraining grows, beside the law it should follow: tokens, frames, pixels, batch, workers, ranks.

python benchmarks/bench_scaling.py --out FOLDER [--arch base] [--threads 2] [--rounds 5]

Measured, in float32 on the CPU, are

- encoder: forward and backward of the backbone on 4 rows of visible tokens;
- frames: a step on 2 clips, 95 % of the tokens hidden;
- image size: a step on 8 images, 90 % hidden;
- batch: a step on images and on clips of the usual size;
- workers: batches of the loader, from the demo's videos through the recipe's transforms, starting the workers included;
- ranks: forward and backward on one rank with two threads, and on two ranks with one thread and half of the batch each,
  which exchange gradients (DDP over gloo) with every batch or, accumulating as the recipe does, with every fourth.

A step is that of bench_step.py. The law is the MACs that omnimae.flops counts, or the rows alone ('linear'), scaled to
the measurements by the geometric mean of their ratio; 'off' is what is left of the ratio. All points of a series take
turns; numbers are medians over the rounds with their range. Prints tables and writes table.md, results.json and
scaling.png.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import NamedTuple

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from omnimae.flops import decoder_macs, encoder_macs
from omnimae.structures import Grid, to_json
from omnimae.synthetic.demo import make_demo

sys.path.insert(0, str(Path(__file__).parent))
from bench_loader import drain, our_loader  # noqa: E402
from bench_step import ROOT, Setup, build, machine, model_config, ours, setup, step, take_turns  # noqa: E402

VISIBLE = (20, 39, 79, 157, 314, 627)
FRAMES = (2, 4, 8, 16)
IMAGE_SIZES = (112, 160, 224, 320)
BATCHES = {'image': (1, 2, 4, 8, 16), 'video': (1, 2, 4)}
WORKERS = (0, 1, 2)
RANK_BATCHES = {'image': 16, 'video': 2}
ACCUMULATED = (1, 4)


class Series(NamedTuple):
    """Points of one quantity.

    Attributes:
        name: what grows.
        values: of the quantity.
        seconds: (points, rounds).
        laws: name -> what the seconds should be proportional to.
    """

    name: str
    values: list[int]
    seconds: list[list[float]]
    laws: dict[str, list[float]]

    def off(self, law: str) -> np.ndarray:
        """-> (points,): how far the medians are from the law."""
        ratio = np.median(self.seconds, axis=1) / self.laws[law]
        return ratio / np.exp(np.log(ratio).mean()) - 1


def parse_args(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description='How the cost of pretraining grows.')
    parser.add_argument('--out', type=Path, required=True, metavar='FOLDER', help='where table.md and the rest go')
    parser.add_argument('--arch', default='base', choices=['small', 'base', 'large', 'huge'])
    parser.add_argument('--threads', type=int, default=os.cpu_count(), help='of torch')
    parser.add_argument('--rounds', type=int, default=5)
    return parser.parse_args(words)


# --- what grows ------------------------------------------------------------------------------------------------------


def series(name: str, calls: Mapping[int, Callable[[], object]], laws: dict[str, list[float]], rounds: int) -> Series:
    """Time the points of one quantity in turns."""
    times = take_turns({str(value): call for value, call in calls.items()}, rounds, 'cpu')
    print(name, {value: round(float(np.median(times[str(value)])), 3) for value in calls}, flush=True)
    return Series(name, list(calls), [times[str(value)].tolist() for value in calls], laws)


def encoder(model: nn.Module, rounds: int) -> Series:
    """Backbone by visible tokens."""
    backbone = model.backbone
    pixels = backbone.patch_embed.weight[0].numel()

    def run(num_visible: int) -> None:
        tokens = torch.arange(backbone.grid.num_tokens)[:num_visible].expand(4, -1)
        backbone.encode(torch.randn(4, num_visible, pixels), backbone.grid, tokens).sum().backward()
        backbone.zero_grad()

    values = [value for value in VISIBLE if value <= backbone.grid.num_tokens]
    laws = dict(MACs=[encoder_macs(backbone, value, 'video') for value in values], linear=[float(v) for v in values])
    return series('encoder: visible tokens', {value: partial(run, value) for value in values}, laws, rounds)


def whole_step(this: Setup) -> Callable[[], None]:
    """A step of ours, from its batch."""
    return partial(step, ours(this), 'fp32', 'cpu')


def resized(model: nn.Module, modality: str, batch: int, size: tuple[int, int, int]) -> Setup:
    """A batch of other clips than the model's own."""
    grid = Grid.of(size, model.backbone.patch_size)
    clip = torch.randint(0, 256, (batch, 3, *size), dtype=torch.uint8)
    return Setup(model, modality, clip, model.mask_generator[modality](batch, grid, 'cpu'))


def step_macs(this: Setup) -> float:
    """Of the forward pass, at the size of its clips."""
    model, num_visible, num_predicted = this.model, this.masks.visible.shape[1], this.masks.decode.shape[1]
    encoder = encoder_macs(model.backbone, num_visible, this.modality)
    return len(this.clip) * (encoder + decoder_macs(model, this.modality, num_visible, num_predicted))


def steps(name: str, setups: Mapping[int, Setup], linear: Sequence[float], rounds: int) -> Series:
    """Whole steps on other batches."""
    laws = dict(MACs=[step_macs(this) for this in setups.values()], linear=list(linear))
    return series(name, {value: whole_step(this) for value, this in setups.items()}, laws, rounds)


def frames(model: nn.Module, rounds: int) -> Series:
    """Step by clip length."""
    size = tuple(n * p for n, p in zip(model.backbone.grid[1:], model.backbone.patch_size[1:], strict=True))
    setups = {value: resized(model, 'video', 2, (value, *size)) for value in FRAMES}
    return steps('2 clips: frames', setups, FRAMES, rounds)


def image_size(model: nn.Module, rounds: int) -> Series:
    """Step by image size."""
    setups = {value: resized(model, 'image', 8, (1, value, value)) for value in IMAGE_SIZES}
    return steps('8 images: pixels of a side', setups, [float(value**2) for value in IMAGE_SIZES], rounds)


def batch(model: nn.Module, modality: str, rounds: int) -> Series:
    """Step by batch."""
    values = BATCHES[modality]
    return steps(f'{modality}s in a batch', {v: setup(model, modality, v) for v in values}, values, rounds)


def workers(rounds: int) -> Series:
    """The loader by workers; the law is that of cores which are all one needs."""
    with tempfile.TemporaryDirectory() as folder, DefaultScope.overwrite_default_scope('omnimae'):
        root = Path(folder, 'demo')
        make_demo(root, size=1, workers=2)
        recipe = Config.fromfile(ROOT / 'configs/_base_/datasets/in1k_ssv2.py').train_dataloader.dataset.sources.ssv2
        source = {**recipe, 'root': f'{root}/videos/train', 'ann_file': f'{root}/videos/train.txt'}
        calls = {n: partial(drain, our_loader(source, 1, 32, num_workers=n)) for n in WORKERS}
        laws = dict(workers=[1 / min(max(n, 1), os.cpu_count()) for n in WORKERS])
        return series('loader: workers', calls, laws, rounds)


# --- ranks -----------------------------------------------------------------------------------------------------------


def ranks(cfg: dict, modality: str, rounds: int) -> list[dict]:
    """Samples per second of one rank with two threads, and of two with one each; a row per exchange."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = (cfg, modality, rounds, f'{folder}/rendezvous')
        with multiprocessing.get_context('spawn').Pool(2) as pool:
            [rows, _] = pool.starmap(_train_rank, [(rank, *arguments) for rank in range(2)], chunksize=1)
    for row in rows:
        row['ratio'] = float(np.median(np.divide(row['two'], row['one'])))
        print(row, flush=True)
    return rows


def _train_rank(rank: int, cfg: dict, modality: str, rounds: int, rendezvous: str) -> list[dict]:
    dist.init_process_group('gloo', init_method=f'file://{rendezvous}', rank=rank, world_size=2)
    model = build(cfg, 'cpu')
    whole, half = (setup(model, modality, RANK_BATCHES[modality] // n) for n in (1, 2))
    parallel = DistributedDataParallel(model)
    rows = [dict(modality=modality, accumulated=n, one=[], two=[]) for n in ACCUMULATED]
    for turn in range(1 + rounds):
        for row in rows:
            num_samples = RANK_BATCHES[modality] * row['accumulated']
            torch.set_num_threads(2)
            seconds = _accumulate(model, whole, row['accumulated']) if rank == 0 else 1.0
            dist.barrier()  # the other rank sleeps until here
            torch.set_num_threads(1)
            both = _accumulate(parallel, half, row['accumulated'])
            dist.barrier()
            if turn > 0:
                row['one'].append(num_samples / seconds)
                row['two'].append(num_samples / both)
    dist.destroy_process_group()
    return rows


def _accumulate(model: nn.Module, this: Setup, num_batches: int) -> float:
    """Seconds of so many forward and backward passes, with an exchange of gradients in the last."""
    begin = time.perf_counter()
    for i in range(num_batches):
        waits = i < num_batches - 1 and isinstance(model, DistributedDataParallel)
        with model.no_sync() if waits else nullcontext():
            model(this.clip, this.modality, this.masks)['loss'].backward()
    model.zero_grad()
    return time.perf_counter() - begin


# --- what is said ----------------------------------------------------------------------------------------------------


def table(one: Series) -> str:
    """Markdown, a line per point."""
    lines = [f'| {one.name} | seconds (range) | {" | ".join(f"off {law}" for law in one.laws)} |']
    lines.append('|---' * (2 + len(one.laws)) + '|')
    off = {law: one.off(law) for law in one.laws}
    for i, (value, times) in enumerate(zip(one.values, one.seconds, strict=True)):
        cells = [f'{100 * values[i]:+.0f} %' for values in off.values()]
        lines.append(
            f'| {value} | {np.median(times):.3f} ({min(times):.3f} - {max(times):.3f}) | {" | ".join(cells)} |'
        )
    return '\n'.join(lines)


def ranks_table(rows: Sequence[dict]) -> str:
    """Markdown, a line per modality and exchange."""
    lines = ['| samples per second | exchange | 1 rank, 2 threads | 2 ranks, 1 thread | ratio |', '|---' * 5 + '|']
    for row in rows:
        exchange = 'each batch' if row['accumulated'] == 1 else f'every {row["accumulated"]} batches'
        rates = ' | '.join(f'{np.median(row[key]):.2f}' for key in ('one', 'two'))
        lines.append(f'| {row["modality"]}s | {exchange} | {rates} | {row["ratio"]:.2f} |')
    return '\n'.join(lines)


def plot(all_series: Sequence[Series], path: Path) -> None:
    """Measured points and the laws, both axes logarithmic where zero is not among the values."""
    figure, axes = plt.subplots(2, 3, figsize=(10, 6))
    for axis, one in zip(axes.flat, all_series, strict=False):
        middle = np.median(one.seconds, axis=1)
        axis.plot(one.values, middle, 'o', label='measured')
        for law in one.laws:
            axis.plot(one.values, middle / (1 + one.off(law)), '--', label=law)
        if min(one.values) > 0:
            axis.set_xscale('log', base=2)
            axis.set_yscale('log', base=2)
        axis.set_title(one.name, fontsize=9)
        axis.set_ylabel('seconds', fontsize=8)
        axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=70)


def main(words: Sequence[str] | None = None) -> None:
    """Measure and write tables and plot."""
    args = parse_args(words)
    torch.set_num_threads(args.threads)
    cfg = model_config(args.arch)
    model = build(cfg, 'cpu')
    all_series = [
        encoder(model, args.rounds),
        frames(model, args.rounds),
        image_size(model, args.rounds),
        *(batch(model, modality, args.rounds) for modality in BATCHES),
        workers(args.rounds),
    ]
    rows = [row for modality in RANK_BATCHES for row in ranks(cfg, modality, args.rounds)]
    args.out.mkdir(parents=True, exist_ok=True)
    record = dict(
        arguments={**vars(args), 'out': None},
        machine=machine('cpu'),
        series=[{**one._asdict(), 'off': {law: one.off(law).tolist() for law in one.laws}} for one in all_series],
        ranks=rows,
    )
    (args.out / 'results.json').write_text(to_json(record, indent=2) + '\n')
    tables = '\n\n'.join([*(table(one) for one in all_series), ranks_table(rows)]) + '\n'
    (args.out / 'table.md').write_text(tables)
    print(tables)
    plot(all_series, args.out / 'scaling.png')


if __name__ == '__main__':
    main()
