"""What a pretraining step costs beside the plain way, mmpretrain's MAE and the peak of the machine, in one run.

python benchmarks/bench_step.py --out FOLDER [--arch base] [--device cpu] [--precision fp32 bf16] [--batch 8 2]
                                [--modality image video] [--rounds 7] [--threads 2] [--compile]
                                [--decoders] [--cpu-time]

A step is forward, loss and backward, until the gradients are dropped; the optimizer is timed apart. Beside ours stand

- plain: tests/dense_reference.py, the way public MAE code does it. A convolution embeds all patches of a floating clip,
  attention is written out, the decoder has full-size buffers and predicts every token. It has our weights and masks,
  and its loss has to equal ours to 1e-5 before anything is timed;
- mmpretrain: its MAE, 2D and for images alone, with a decoder of our size and its own random masks;
- with --compile ours once more, through torch.compile;
- with --decoders ours with less work for the decoder: a share of the hidden tokens, and a decoder of cross-attention
  (CrossMAEHead) of the same size on all, half and a quarter of them.

The share of the peak is 6 FLOPs for each MAC that omnimae.flops counts in our forward pass (backward is taken as two of
them), for plain as well, over the time, against torch's product of two square matrices of the same precision, and
against that of our linear layers where omnimae/models/ops.py has a faster one. bf16 is autocast over float32
weights. All take turns, after warm-up; shares and ratios are medians over the rounds, each against the others of its
round, and seconds are medians with their range. --cpu-time takes the processor's time of all threads instead, and the
minimum of the rounds: for a machine that others use, too.

Peak memory is what a step adds to model and batch, gradients included. On the CPU a fresh process for each builds both,
reads its resident size, takes two steps and reads the peak of it (Linux: VmRSS and VmHWM); on a GPU it is
torch.cuda.max_memory_allocated less what was allocated before. Prints tables and writes table.md and results.json.
"""

from __future__ import annotations

import argparse
import copy
import multiprocessing
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import Tensor, nn

from omnimae.engine.optim import LayerDecayConstructor
from omnimae.flops import masked_row
from omnimae.models import CrossMAEHead
from omnimae.models.ops import linear
from omnimae.registry import MODELS
from omnimae.structures import Masks, to_json

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / 'tests'))
import dense_reference  # noqa: E402

DTYPES = {'fp32': torch.float32, 'bf16': torch.bfloat16}
PEAK_SIZE = {'cpu': 2048, 'cuda': 8192}
RECIPE_BATCH = 32  # samples per GPU in configs/omnimae


class Contender(NamedTuple):
    """A way to compute a loss, and what it is differentiated by."""

    loss: Callable[[], Tensor]
    parameters: list[Tensor]
    setup: Setup | None  # whose arithmetic it is; None of a network that is not ours


class Setup(NamedTuple):
    """One kind of step: a model of ours, a batch, and what is hidden of it."""

    model: nn.Module
    modality: str
    clip: Tensor  # uint8
    masks: Masks

    @property
    def flops(self) -> int:
        """Of forward and backward of the whole batch."""
        row = masked_row(self.model, self.modality, '', *(x.shape[1] for x in self.masks[:2]))
        return 6 * row.total * len(self.clip)


def parse_args(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description='Time and memory of a pretraining step, beside others.')
    parser.add_argument('--out', type=Path, required=True, metavar='FOLDER', help='where table.md and results.json go')
    parser.add_argument('--arch', default='base', choices=['small', 'base', 'large', 'huge'])
    parser.add_argument('--device', default='cpu', choices=['cpu', 'cuda'])
    parser.add_argument('--precision', nargs='+', default=list(DTYPES), choices=list(DTYPES))
    parser.add_argument('--modality', nargs='+', default=['image', 'video'], choices=['image', 'video'])
    parser.add_argument('--batch', type=int, nargs=2, default=[8, 2], metavar=('IMAGES', 'CLIPS'))
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument('--threads', type=int, default=os.cpu_count(), help='of torch, on the CPU')
    parser.add_argument('--compile', action='store_true')
    parser.add_argument('--decoders', action='store_true', help='decoders that do less, too')
    parser.add_argument('--cpu-time', action='store_true', help='of the processor, and minima')
    return parser.parse_args(words)


# --- what is measured ------------------------------------------------------------------------------------------------


def model_config(arch: str) -> dict:
    """The model of configs/omnimae; there is none for 'small', which gets the decoder of 'base'."""
    letter = 'b' if arch == 'small' else arch[0]
    cfg = Config.fromfile(ROOT / f'configs/omnimae/vit-{letter}_in1k-ssv2.py').model.to_dict()
    cfg['backbone']['arch'] = arch
    return cfg


def build(cfg: dict, device: str) -> nn.Module:
    """A model of ours, in training."""
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('omnimae'), torch.device(device):
        return MODELS.build(cfg).to(device).train()


def setup(model: nn.Module, modality: str, batch: int) -> Setup:
    """Random pixels and masks, as the model's configuration has them."""
    backbone, device = model.backbone, next(model.parameters()).device
    grid = backbone.grid._replace(t=1) if modality == 'image' else backbone.grid
    frames = 1 if modality == 'image' else grid.t * backbone.patch_size[0]
    size = (batch, 3, frames, grid.h * backbone.patch_size[1], grid.w * backbone.patch_size[2])
    clip = torch.randint(0, 256, size, dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).to(device)
    return Setup(model, modality, clip, model.mask_generator[modality](batch, grid, device))


def ours(this: Setup) -> Contender:
    """The package's own step."""
    return Contender(
        lambda: this.model(this.clip, this.modality, this.masks)['loss'], list(this.model.parameters()), this
    )


def lighter(this: Setup, ratio: float, kind: str = 'CrossMAEHead') -> Contender:
    """Ours with another decoder of the same size, on a share of the hidden tokens."""
    backbone, head = this.model.backbone, this.model.head
    model = copy.deepcopy(this.model)
    if kind != type(head).__name__:
        block = head.blocks[0]
        with torch.device(this.clip.device):
            model.head = CrossMAEHead(
                in_dim=backbone.embed_dim,
                patch_size=backbone.patch_size,
                grid=backbone.grid,
                embed_dim=block.attn.proj.in_features,
                depth=len(head.blocks),
                num_heads=block.attn.num_heads,
            )
    return ours(this._replace(model=model, masks=this.masks.part(ratio)))


def compiled(this: Setup) -> Contender:
    """The same through torch.compile."""
    return ours(this._replace(model=torch.compile(this.model)))


def plain(this: Setup) -> Contender:
    """The way public MAE code does it, with the same weights and masks."""
    backbone, head = this.model.backbone, this.model.head
    clip = this.model.data_preprocessor.normalize(this.clip)
    num_tokens = this.masks.visible.shape[1] + this.masks.decode.shape[1]
    hidden = torch.ones(len(clip), num_tokens, dtype=torch.bool, device=clip.device)
    hidden.scatter_(1, this.masks.visible, False)
    parameters = dict(this.model.named_parameters())
    options = dict(
        patch=backbone.patch_size,
        grid=tuple(backbone.grid),
        heads=backbone.blocks[0].attn.num_heads,
        decoder_heads=head.blocks[0].attn.num_heads,
    )
    return Contender(
        lambda: dense_reference.pretrain(clip, hidden, parameters, **options)[0], list(parameters.values()), this
    )


def mmpretrain(this: Setup) -> Contender:
    """MMPretrain's MAE of the same size, on the same images."""
    import mmpretrain.models  # noqa: F401, PLC0415  # takes seconds, and is not installed everywhere
    from mmpretrain.registry import MODELS as THEIR_MODELS  # noqa: N811

    backbone, head = this.model.backbone, this.model.head
    attn, decoder_attn = backbone.blocks[0].attn, head.blocks[0].attn
    patch_size = backbone.patch_size[1]
    arch = dict(
        embed_dims=backbone.embed_dim,
        num_layers=len(backbone.blocks),
        num_heads=attn.num_heads,
        feedforward_channels=backbone.blocks[0].mlp.fc1.out_features,
    )
    cfg = dict(
        type='MAE',
        backbone=dict(
            type='MAEViT',
            arch=arch,
            img_size=this.clip.shape[-1],
            patch_size=patch_size,
            mask_ratio=this.model.mask_generator['image'].ratio,
        ),
        neck=dict(
            type='MAEPretrainDecoder',
            num_patches=backbone.grid.h * backbone.grid.w,
            patch_size=patch_size,
            embed_dim=backbone.embed_dim,
            decoder_embed_dim=decoder_attn.proj.in_features,
            decoder_depth=len(head.blocks),
            decoder_num_heads=decoder_attn.num_heads,
        ),
        head=dict(
            type='MAEPretrainHead',
            norm_pix=True,
            patch_size=patch_size,
            loss=dict(type='PixelReconstructionLoss', criterion='L2'),
        ),
    )
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = THEIR_MODELS.build(cfg).to(this.clip.device)
    images = this.model.data_preprocessor.normalize(this.clip)[:, :, 0]
    return Contender(
        lambda: model.loss(images, [None] * len(images))['loss'],
        [p for p in model.parameters() if p.requires_grad],
        None,
    )


DECODERS = {
    'self, half': partial(lighter, ratio=0.5, kind='MAEHead'),
    'cross': partial(lighter, ratio=1.0),
    'cross, half': partial(lighter, ratio=0.5),
    'cross, quarter': partial(lighter, ratio=0.25),
}
CONTENDERS = {'ours': ours, 'plain': plain, 'mmpretrain': mmpretrain, 'ours, compiled': compiled, **DECODERS}


def step(contender: Contender, precision: str, device: str) -> None:
    """Forward, loss and backward; the gradients are dropped."""
    with torch.autocast(device, torch.bfloat16, enabled=precision == 'bf16'):
        loss = contender.loss()
    loss.backward()
    for parameter in contender.parameters:
        parameter.grad = None


def product(size: int, dtype: torch.dtype, device: str, by_layers: bool = False) -> Callable[[], None]:
    """Five products of two square matrices, as torch or as our linear layers compute them."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))

    def multiply() -> None:
        for _ in range(5):
            linear(a, b, None) if by_layers else a @ b

    return multiply


def check_losses(this: Setup) -> None:
    """The plain path computes what ours does.

    Raises:
        RuntimeError: it does not, so times would compare nothing.
    """
    with torch.no_grad():
        values = [contender(this).loss().item() for contender in (ours, plain)]
    if abs(values[0] - values[1]) > 1e-5 * abs(values[1]):
        raise RuntimeError(f'{this.modality}: the loss is {values[0]}, that of the plain path {values[1]}.')


def adamw(model: nn.Module, fused: bool) -> Callable[[], None]:
    """The recipe's optimizer, on random gradients."""
    wrapper = Config.fromfile(ROOT / 'configs/_base_/schedules/omnimae_800e.py').optim_wrapper
    cfg = {key: value for key, value in wrapper.optimizer.items() if key not in ('type', 'fused')}
    groups = LayerDecayConstructor(wrapper, wrapper.get('paramwise_cfg')).param_groups(model)
    optimizer = torch.optim.AdamW(groups, **{**cfg, 'fused': fused, 'lr': 0.0})
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    return optimizer.step


# --- how it is measured ----------------------------------------------------------------------------------------------


def seconds(call: Callable[[], object], device: str) -> float:
    """Wall time of a call; on a GPU that between two events around it. 'cpu time' is the processor's of all threads."""
    if device.startswith('cpu'):
        clock = time.perf_counter if device == 'cpu' else time.process_time
        begin = clock()
        call()
        return clock() - begin
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    call()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1000


def take_turns(calls: Mapping[str, Callable[[], object]], rounds: int, device: str) -> dict[str, np.ndarray]:
    """Seconds of each call in each round; two rounds before them do not count."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(2 + rounds):
        for name, call in calls.items():
            times[name].append(seconds(call, device))
    return {name: np.array(values[2:]) for name, values in times.items()}


def gpu_memory(contender: Contender, precision: str) -> float:
    """MB that a step adds at its peak."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step(contender, precision, 'cuda')
    return (torch.cuda.max_memory_allocated() - before) / 1e6


def cpu_memory(cfg: dict, modality: str, batch: int, name: str, precision: str, threads: int) -> float:
    """MB that a step adds at its peak, in a process of its own."""
    with multiprocessing.get_context('spawn').Pool(1) as pool:
        return pool.apply(_added_by_steps, (cfg, modality, batch, name, precision, threads))


def _added_by_steps(cfg: dict, modality: str, batch: int, name: str, precision: str, threads: int) -> float:
    torch.set_num_threads(threads)
    this = setup(build(cfg, 'cpu'), modality, batch)  # stays alive, lest the step finds its memory free
    contender = CONTENDERS[name](this)
    before = _resident('VmRSS')
    for _ in range(2):
        step(contender, precision, 'cpu')
    return _resident('VmHWM') - before


def _resident(field: str) -> float:
    """MB that this process has in memory, now or at its peak (ru_maxrss would begin with the peak of its parent)."""
    [line] = [line for line in Path('/proc/self/status').read_text().splitlines() if line.startswith(field)]
    return int(line.split()[1]) * 1024 / 1e6


def measure(this: Setup, cfg: dict, args: argparse.Namespace) -> list[dict]:
    """One row per way and precision."""
    check_losses(this)
    names = [name for name in CONTENDERS if _applies(name, this.modality, args)]
    contenders = {name: CONTENDERS[name](this) for name in names}
    keys = [(precision, name) for precision in args.precision for name in names]
    calls = {f'{p} {name}': partial(step, contenders[name], p, args.device) for p, name in keys}
    size = PEAK_SIZE[args.device]
    peaks = {f'{p} peak': product(size, DTYPES[p], args.device) for p in args.precision}
    peaks |= {f'{p} layers': product(size, DTYPES[p], args.device, by_layers=True) for p in args.precision}
    times = take_turns({**peaks, **calls}, args.rounds, 'cpu time' if args.cpu_time else args.device)
    if args.cpu_time:
        times = {key: values.min(keepdims=True) for key, values in times.items()}
    rows = []
    for precision, name in keys:
        peak, layers = (10 * size**3 / times[f'{precision} {kind}'] for kind in ('peak', 'layers'))
        own, counted = times[f'{precision} {name}'], contenders[name].setup
        flops = None if counted is None else counted.flops
        if args.device == 'cuda':
            memory = gpu_memory(contenders[name], precision)
        else:
            memory = cpu_memory(cfg, this.modality, len(this.clip), name, precision, args.threads)
        row = dict(
            modality=this.modality,
            batch=len(this.clip),
            precision=precision,
            path=name,
            seconds=own.tolist(),
            peak_gflops=float(np.median(peak)) / 1e9,
            layers_gflops=float(np.median(layers)) / 1e9,
            gflop=None if flops is None else flops / 1e9,
            share=None if flops is None else float(np.median(flops / own / peak)),
            share_of_layers=None if flops is None else float(np.median(flops / own / layers)),
            times_ours=float(np.median(own / times[f'{precision} ours'])),
            times_fp32=float(np.median(times[f'fp32 {name}'] / own)) if 'fp32' in args.precision else None,
            memory_mb=memory,
        )
        rows.append(row)
        print(row, flush=True)
    return rows


def _applies(name: str, modality: str, args: argparse.Namespace) -> bool:
    if name in DECODERS:
        return args.decoders
    return (name != 'mmpretrain' or modality == 'image') and (name != 'ours, compiled' or args.compile)


def measure_optimizer(model: nn.Module, args: argparse.Namespace) -> dict[str, float]:
    """Seconds of an update, fused and not."""
    calls = {'fused': adamw(model, True), 'not fused': adamw(model, False)}
    return {name: float(np.median(values)) for name, values in take_turns(calls, args.rounds, args.device).items()}


# --- what is said ----------------------------------------------------------------------------------------------------


def machine(device: str) -> dict[str, str]:
    """What the numbers hold for."""
    names = [line.split(':')[1].strip() for line in Path('/proc/cpuinfo').open() if line.startswith('model name')]
    return dict(
        cpu=f'{len(names)} x {names[0]}, {torch.backends.cpu.get_cpu_capability()}',
        gpu=torch.cuda.get_device_name() if device == 'cuda' else '-',
        system=platform.platform(),
        python=platform.python_version(),
        torch=torch.__version__,
    )


def step_table(rows: Sequence[dict]) -> str:
    """Markdown, a line per way and precision."""
    lines = [
        '| step | precision | way | seconds (range) | GFLOP | share of peak | of that of our layers | times ours '
        '| speed-up by bf16 | peak memory |',
        '|---' * 10 + '|',
    ]
    for row in rows:
        cells = [
            f'{row["batch"]} {row["modality"]}s',
            row['precision'],
            row['path'],
            f'{np.median(row["seconds"]):.3f} ({min(row["seconds"]):.3f} - {max(row["seconds"]):.3f})',
            '-' if row['gflop'] is None else f'{row["gflop"]:.0f}',
            '-' if row['share'] is None else f'{100 * row["share"]:.0f} % of {row["peak_gflops"]:.0f} GFLOP/s',
            '-' if row['share'] is None else f'{100 * row["share_of_layers"]:.0f} % of {row["layers_gflops"]:.0f}',
            f'{row["times_ours"]:.2f}',
            f'{row["times_fp32"]:.2f}' if row['precision'] == 'bf16' and row['times_fp32'] else '-',
            f'{row["memory_mb"]:.0f} MB',
        ]
        lines.append(f'| {" | ".join(cells)} |')
    return '\n'.join(lines)


def optimizer_table(optimizer: Mapping[str, float], rows: Sequence[dict]) -> str:
    """Markdown, a line per kind of AdamW; steps are taken to cost in proportion to their batch."""
    own = [row for row in rows if row['path'] == 'ours']
    titles = [f'{row["precision"]} step of {RECIPE_BATCH} {row["modality"]}s' for row in own]
    lines = [
        f'| AdamW | seconds | {" | ".join(f"share of a {title}" for title in titles)} |',
        '|---' * (2 + len(own)) + '|',
    ]
    for name, value in optimizer.items():
        shares = [value / (np.median(row['seconds']) * RECIPE_BATCH / row['batch']) for row in own]
        lines.append(f'| {name} | {value:.3f} | {" | ".join(f"{100 * share:.1f} %" for share in shares)} |')
    return '\n'.join(lines)


def main(words: Sequence[str] | None = None) -> None:
    """Measure and write the tables."""
    args = parse_args(words)
    torch.set_num_threads(args.threads)
    cfg = model_config(args.arch)
    model = build(cfg, args.device)
    sizes = dict(zip(('image', 'video'), args.batch, strict=True))
    rows = [row for name in args.modality for row in measure(setup(model, name, sizes[name]), cfg, args)]
    optimizer = measure_optimizer(model, args)
    args.out.mkdir(parents=True, exist_ok=True)
    record = dict(arguments={**vars(args), 'out': None}, machine=machine(args.device), steps=rows, optimizer=optimizer)
    (args.out / 'results.json').write_text(to_json(record, indent=2) + '\n')
    tables = f'{step_table(rows)}\n\n{optimizer_table(optimizer, rows)}\n'
    (args.out / 'table.md').write_text(tables)
    print(tables)


if __name__ == '__main__':
    main()
