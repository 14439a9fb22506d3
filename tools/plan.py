"""Predict what a training costs: memory, batch size, hours, loader cores, host memory.

python tools/plan.py CONFIG [--gpus N] [--gpu h100|a100|4090|...] [--memory GB] [--tflops T]
                            [--rows SOURCE=N ...] [--cfg-options k=v ...]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import NamedTuple

from omnimae.stopping import start_tool

if __name__ == '__main__':
    start_tool()  # the imports take seconds

import torch
from mmengine.config import Config
from torch import nn

import omnimae.data  # noqa: F401  # fills the registries
from omnimae.commands import add_cfg_options, new_parser
from omnimae.config import OptionAction, infer_num_classes
from omnimae.engine import load_config_for
from omnimae.planning import (
    CARDS,
    FITTED,
    GIB,
    Card,
    Memory,
    Source,
    StepCount,
    count_step,
    fitting_batch,
    inputs_of,
    memory_of,
    sources_of,
)
from omnimae.registry import MODELS
from omnimae.structures import sizes_by_source


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Command line."""
    parser = new_parser(__doc__)
    parser.add_argument('--gpus', type=int, default=1, help='number of devices; default: 1')
    parser.add_argument('--gpu', default='h100', choices=[*CARDS], help='their kind; default: h100')
    parser.add_argument('--memory', type=float, help='GiB of each; default: that of the data sheet')
    parser.add_argument('--tflops', type=float, help='bfloat16 TFLOP/s of each; default: those of the data sheet')
    parser.add_argument(
        '--rows', nargs='+', action=OptionAction, default={}, metavar='SOURCE=N', help='number of files of a source'
    )
    add_cfg_options(parser)
    return parser.parse_args(argv)


class Part(NamedTuple):
    """Plan of one source."""

    source: Source
    count: StepCount
    memory: Memory
    batch_size: int  # of the config
    fitting: int  # the largest that fits and divides the global batch, or 0


def main(argv: Sequence[str] | None = None) -> None:
    """Plan."""
    args = parse_args(argv)
    cfg = load_config_for(args.config, None, args.cfg_options)
    infer_num_classes(cfg)
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    card = CARDS[args.gpu]
    card = card._replace(memory=args.memory or card.memory, tflops=args.tflops or card.tflops)
    loader = cfg.train_dataloader
    sources = sources_of(cfg, args.rows)
    sizes = sizes_by_source(loader.batch_size, {source.name: source for source in sources})
    sizes = {name: size for name, (_, size) in sizes.items()}
    global_batch_size = loader.batch_sampler.get('global_batch_size') or max(sizes.values()) * args.gpus
    if global_batch_size % args.gpus:
        near = [n for n in range(1, global_batch_size + 1) if global_batch_size % n == 0]
        near = [max(n for n in near if n < args.gpus), *[n for n in near if n > args.gpus][:1]]
        raise ValueError(
            f'--gpus {args.gpus} do not divide the global batch size of {global_batch_size}, so the training would be '
            f'refused. Take {" or ".join(map(str, near))}.'
        )
    parts = [_part(cfg, model, source, sizes[source.name], card, args.gpus, global_batch_size) for source in sources]
    print(_head(args, cfg, model, card))
    print(_memory_table(parts, card))
    print(_time_table(parts, cfg, model, card, args.gpus, global_batch_size))
    print(_notes(cfg, parts))


def _part(
    cfg: Config, model: nn.Module, source: Source, size: int, card: Card, num_gpus: int, global_batch_size: int
) -> Part:
    count = count_step(model, inputs_of(cfg, source), reduced=_is_reduced(cfg))
    hooks = cfg.get('custom_hooks') or ()
    has_ema = any(hook['type'] == 'EMAHook' for hook in hooks)
    num_shards = num_gpus if cfg.optim_wrapper.get('shard') else 1
    memory = memory_of(model, count, source, ema=has_ema, num_shards=num_shards)
    largest = memory.largest_batch(card.memory * GIB)
    fitting = fitting_batch(largest, global_batch_size, num_gpus, source.replicas)
    return Part(source, count, memory, size, fitting)


def _is_reduced(cfg: Config) -> bool:
    return cfg.optim_wrapper.get('dtype') is not None


def _head(args: argparse.Namespace, cfg: Config, model: nn.Module, card: Card) -> str:
    total = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    rates = f'{card.tflops:.3g} TFLOP/s in bfloat16, {card.float32:.3g} in float32, {card.bandwidth:.4g} GB/s'
    return (
        f'{args.config}: {type(model).__name__}, {total / 1e6:.1f} M parameters, {trained / 1e6:.1f} M trained\n'
        f'{args.gpus} x {args.gpu}: {card.memory:g} GiB, {rates}; trains in '
        f'{cfg.optim_wrapper.dtype if _is_reduced(cfg) else "float32"}\n'
    )


def _table(head: str, columns: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    width = max(18, 2 + max(len(value) for _, values in [('', columns), *rows] for value in values))
    lines = [f'{head:44}' + ''.join(f'{column:>{width}}' for column in columns)]
    lines += [f'  {name:42}' + ''.join(f'{value:>{width}}' for value in values) for name, values in rows]
    return '\n'.join(line.rstrip() for line in lines) + '\n'


def _memory_table(parts: Sequence[Part], card: Card) -> str:
    rows = [(what, [f'{part.memory.fixed[what] / GIB:.2f}' for part in parts]) for what in parts[0].memory.fixed]
    rows += [
        ('activations and reduced weights, once', [f'{part.memory.alive[0].max() / GIB:.2f}' for part in parts]),
        ('activations of a sample', [f'{part.memory.alive[1].max() / GIB:.3f}' for part in parts]),
        ('all, at the batch size of the config', [f'{part.memory.of(part.batch_size) / GIB:.1f}' for part in parts]),
        (f'largest batch size in {card.memory:g} GiB', [
            str(part.memory.largest_batch(card.memory * GIB)) for part in parts
        ]),
        ('largest that makes the global batch size', [str(part.fitting or 'none') for part in parts]),
    ]  # fmt: skip
    return _table('GiB on a device', [part.source.name for part in parts], rows)


def _time_table(
    parts: Sequence[Part], cfg: Config, model: nn.Module, card: Card, num_gpus: int, global_batch_size: int
) -> str:
    reduced, epochs = _is_reduced(cfg), cfg.train_cfg.max_epochs
    # AdamW reads weight, gradient and two averages, and writes three of them.
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    update = 7 * 4 * trained / (1e9 * card.bandwidth * card.bandwidth_share)
    rows: dict[str, list[str]] = {}
    hours: list[float | None] = []
    for part in parts:
        source, size = part.source, part.batch_size
        seconds = part.count.seconds(size, card, reduced=reduced)
        step = seconds * global_batch_size / (size * num_gpus) + update
        rate = global_batch_size / step / num_gpus
        steps = source.steps(global_batch_size)
        hours.append(None if steps is None else steps * epochs * step / 3600)
        is_video = source.modality == 'video'
        for name, value in {
            'batch size of the config': f'{size}',
            'TFLOP a sample, forward and backward': f'{part.count.total_flops(size) / size / 1e12:.3f}',
            'operations to launch': f'{part.count.num_kernels}',
            'ms of a micro-batch': f'{1000 * seconds:.1f}',
            'samples/s of a device': f'{rate:.0f}' if rate >= 10 else f'{rate:.2f}',
            'the same at the largest batch size': _rate_at(part, card, reduced),
            'files': '?' if source.rows is None else f'{source.rows}',
            'known from': source.origin,
            'optimizer steps an epoch': '?' if steps is None else f'{steps}',
            f'hours of {epochs} epochs': '?' if hours[-1] is None else f'{hours[-1]:.1f}',
            'loader cores a device': _cores(source, rate),
            'the same, short side 256': _cores(source, rate, 'reencoded') if is_video else '',
            'the same, short side 256, mjpeg': _cores(source, rate, 'reencoded_mjpeg') if is_video else '',
        }.items():
            rows.setdefault(name, []).append(value)
    table = _table('Time', [part.source.name for part in parts], list(rows.items()))
    known = [value for value in hours if value is not None]
    if len(known) < len(hours):
        return f'{table}\nThe hours of the recipe are unknown: give --rows SOURCE=N for the sources marked "?".'
    total = sum(known)
    return f'{table}\nThe whole recipe: {total:.1f} hours, probably {total / 2:.1f} to {total * 2:.1f}.'


def _cores(source: Source, rate: float, copies: str | None = None) -> str:
    """Loader cores for ``rate`` samples a second, from the originals or from ``copies`` in `FITTED`."""
    file, crop = (FITTED[f'{source.modality}{what}_ms'].value for what in ('', '_crop'))
    share = FITTED[copies].value if copies else 1.0
    return f'{rate * (file * share / source.replicas + crop) / 1000:.1f}'


def _rate_at(part: Part, card: Card, reduced: bool) -> str:
    if not part.fitting:
        return 'none'
    return f'{part.fitting / part.count.seconds(part.fitting, card, reduced=reduced):.0f} at {part.fitting}'


def _notes(cfg: Config, parts: Sequence[Part]) -> str:
    loader = cfg.train_dataloader
    waiting = max(part.source.bytes_a_sample * part.batch_size for part in parts)
    batches = loader.num_workers * (loader.get('prefetch_factor') or 2)
    return (
        f'Host memory: up to {batches * waiting / GIB:.1f} GiB for each device ({batches} batches of '
        f'{waiting / 2**20:.0f} MiB wait for it). /dev/shm is not needed.\n'
        'Measured: steps of OmniMAE on an H200, to which this is fitted, within 20 %.\n'
        'Not measured: other models and cards, whose rates are the same shares of their data sheets. Memory is a count '
        'of tensors. Exchange between devices and waiting for data are left out.\n'
        'Neither counted nor from a data sheet:\n'
        + '\n'.join(f'  {name} = {value:g}: {origin}' for name, (value, origin) in FITTED.items())
    )


if __name__ == '__main__':
    main()
