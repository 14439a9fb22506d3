"""The plan against the clock: seconds and memory of a step as omnimae/planning.py foretells them, and as they are.

python benchmarks/bench_plan.py --out FOLDER [--device cpu|cuda] [--rounds 5]

The rates of the machine are measured first, in place of the shares of a data sheet: of a product, of attention by width
of head, of what only moves bytes (norm, GELU, sum). Each is that of a small model, whose FLOPs and bytes are counted as
those of all models are. On a GPU the time that the host takes for an operation is that of the first recipe with one
sample, where the card waits. Then come micro-batches of recipes, forward and backward: of ViT-B in bfloat16 on a GPU,
of ViT-S in float32 on a CPU, and without what the layers do on CPUs alone, since the plan is one for cards.

On a CPU a second is one of process time with one thread, so that other programs disturb little. All take turns, rates
and steps alike; each number is the median over the rounds. Memory is what a step adds to weights, gradients and
the batch, by torch.cuda.max_memory_allocated. Prints a table and writes table.md and results.json.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.registry import DefaultScope
from numpy.typing import NDArray
from torch import Tensor, nn

import omnimae.data
import omnimae.engine  # noqa: F401  # fills the registries
from omnimae.config import infer_num_classes, load_config
from omnimae.planning import GIB, Card, Inputs, StepCount, as_on_a_card, count_step, inputs_of, sources_of
from omnimae.registry import MODELS
from omnimae.structures import to_json

CONFIGS = Path(__file__).parents[1] / 'configs'
# config -> batch size of each modality on a GPU and on a CPU
STEPS: dict[str, dict[str, dict[str, int]]] = {
    'omnimae/vit-b_in1k-ssv2.py': dict(image=dict(cuda=256, cpu=8), video=dict(cuda=32, cpu=1)),
    'mae/vit-b_in1k.py': dict(image=dict(cuda=128, cpu=4)),
    'omnimae/finetune/vit-b_in1k.py': dict(image=dict(cuda=64, cpu=2)),
    'omnimae/finetune/vit-b_ssv2.py': dict(video=dict(cuda=8, cpu=1)),
}
TOKENS = {'cuda': 65536, 'cpu': 2048}


class Part(nn.Module):
    """A model of one kind of operation; its loss is the mean of what comes out."""

    def __init__(self, kind: str, width: int) -> None:
        super().__init__()
        self.kind, self.width = kind, width
        self.norm, self.layer = nn.LayerNorm(768), nn.Linear(768, 3072)

    def forward(self, x: Tensor, mode: str) -> dict[str, Tensor]:
        """``x`` is (B, 768), or (B, heads, length, width) for attention."""
        if self.kind == 'product':
            x = self.layer(x)
        elif self.kind == 'attention':
            x = F.scaled_dot_product_attention(x, x, x)
        else:
            x = x + F.gelu(self.norm(x))
        return {'loss': x.mean()}


class Step(NamedTuple):
    """A micro-batch to time."""

    name: str
    model: nn.Module
    inputs: Inputs
    size: int
    count: StepCount


def main(argv: Sequence[str] | None = None) -> None:
    """Measure rates and steps, print what was foretold beside what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--out', required=True, type=Path, help='folder of table.md and results.json')
    parser.add_argument('--device', default='cpu', choices=['cpu', 'cuda'])
    parser.add_argument('--rounds', default=5, type=int)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    DefaultScope.get_instance('bench_plan', scope_name='omnimae')
    device, reduced = args.device, args.device == 'cuda'
    steps = _recipe_steps(device, reduced)
    rates = [*_rate_steps(device, reduced), steps[0]._replace(name='launch', size=1)]
    with as_on_a_card():
        runs = {step.name: _runner(step, device) for step in [*rates, *steps]}
        for run in runs.values():
            run()
            run()
        times = {name: [] for name in runs}
        for _ in range(args.rounds):
            for name, run in runs.items():
                times[name].append(_seconds(run, device))
    seconds = {name: statistics.median(values) for name, values in times.items()}
    card = _measured_card({step.name: step for step in rates}, seconds, device)
    rows = []
    for step in steps:
        foretold = step.count.seconds(step.size, card, reduced=reduced)
        row = dict(step=step.name, foretold=foretold, seconds=seconds[step.name], range=sorted(times[step.name]))
        row['error'] = foretold / seconds[step.name] - 1
        if device == 'cuda':
            row |= dict(foretold_gib=_foretold_bytes(step) / GIB, gib=_added_bytes(runs[step.name]) / GIB)
        rows.append(row)
    table = _table(card, rows, device)
    print(table)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / 'table.md').write_text(table)
    (args.out / 'results.json').write_text(to_json(dict(card=card._asdict(), rates=seconds, rows=rows), indent=1))


def _rate_steps(device: str, reduced: bool) -> list[Step]:
    tokens, dtype = TOKENS[device], torch.bfloat16 if reduced else torch.float32

    def step(kind: str, width: int = 0) -> Step:
        def inputs(size: int) -> dict[str, Tensor]:
            if kind == 'attention':
                return dict(x=torch.zeros(size, 768 // width, 785, width, dtype=dtype).requires_grad_())
            return dict(x=torch.zeros(size, 768).requires_grad_())

        size = tokens // 1024 if kind == 'attention' else tokens
        model = Part(kind, width)
        return Step(
            f'{kind} {width}' if width else kind, model, inputs, size, count_step(model, inputs, reduced=reduced)
        )

    return [step('product'), step('attention', 64), step('attention', 24), step('bytes')]


def _recipe_steps(device: str, reduced: bool) -> list[Step]:
    steps = []
    for config, sizes in STEPS.items():
        options = {} if device == 'cuda' else {'model.backbone.arch': 'small'}
        cfg = load_config(CONFIGS / config, {**options, 'model.init_cfg': None})
        infer_num_classes(cfg)
        for source in {source.modality: source for source in sources_of(cfg, {})}.values():
            size, model, inputs = sizes[source.modality][device], MODELS.build(cfg.model), inputs_of(cfg, source)
            name = f'{config.removesuffix(".py")}, {size} {source.modality}{"s" * (size > 1)}'
            steps.append(Step(name, model, inputs, size, count_step(model, inputs, reduced=reduced)))
    return steps


def _runner(step: Step, device: str) -> Callable[[], None]:
    model = step.model.to(device).train()
    given = {name: _noise(value, device) for name, value in step.inputs(step.size).items()}
    inputs = [value for value in given.values() if isinstance(value, Tensor)]

    def run() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=device == 'cuda'):
            loss = model(**given, mode='loss')['loss']
        loss.backward()
        for value in inputs:  # what is added to gradients is counted for weights alone
            value.grad = None

    return run


def _noise(value: object, device: str) -> object:
    """Zeros would take a GPU less power, and so less time; targets stay what they are."""
    if not isinstance(value, Tensor):
        return value
    moved = value.detach().to(device)
    if value.dtype == torch.uint8:
        moved.random_(0, 256)
    elif value.requires_grad or (value.is_floating_point() and value.dim() > 2):
        moved.normal_()
    return moved.requires_grad_(value.requires_grad)


def _seconds(run: Callable[[], None], device: str) -> float:
    if device == 'cpu':
        start = time.process_time()
        run()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def _measured_card(rates: dict[str, Step], seconds: dict[str, float], device: str) -> Card:
    def costs(name: str) -> NDArray[np.float64]:  # (2, operations): FLOPs, bytes
        count, line = rates[name].count, np.array([1, rates[name].size])
        return np.stack([line @ count.flops, line @ count.moved])

    def flops(name: str) -> float:
        counted, moved = costs(name)
        return counted.sum() / (seconds[name] - moved[counted == 0].sum() / bandwidth)

    bandwidth = costs('bytes')[1].sum() / seconds['bytes']
    product = flops('product')
    return Card(
        tflops=product / 1e12,
        float32=product / 1e12,
        bandwidth=bandwidth / 1e9,
        memory=0,
        product_share=1.0,
        attention_share=flops('attention 64') / product,
        narrow_attention_share=flops('attention 24') / product,
        bandwidth_share=1.0,
        launch=seconds['launch'] / rates['launch'].count.num_kernels
        if device == 'cuda'
        else 0.0,  # a CPU launches nothing
    )


def _foretold_bytes(step: Step) -> float:
    fixed, per_sample = step.count.alive
    given = sum(value.nbytes for value in step.inputs(step.size).values() if isinstance(value, Tensor))
    return float((fixed + step.size * per_sample).max()) - given


def _added_bytes(run: Callable[[], None]) -> int:
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    return torch.cuda.max_memory_allocated() - before


def _table(card: Card, rows: Sequence[dict], device: str) -> str:
    lines = [
        f'{torch.cuda.get_device_name() if device == "cuda" else "one core"}, torch {torch.__version__}. Measured: '
        f'products {card.tflops:.3g} TFLOP/s, attention {card.attention_share * card.tflops:.3g} with heads of 64 and '
        f'{card.narrow_attention_share * card.tflops:.3g} with heads of 24, {card.bandwidth:.3g} GB/s, '
        f'{1e6 * card.launch:.1f} us an operation.',
        '',
        '| micro-batch | foretold ms | measured ms (range) | off by | activations, foretold GiB | measured GiB |',
        '|---|---|---|---|---|---|',
    ]
    for row in rows:
        low, high = row['range'][0], row['range'][-1]
        memory = f'{row["foretold_gib"]:.2f} | {row["gib"]:.2f}' if 'gib' in row else '- | -'
        lines.append(
            f'| {row["step"]} | {1e3 * row["foretold"]:.1f} | {1e3 * row["seconds"]:.1f} ({1e3 * low:.1f} - '
            f'{1e3 * high:.1f}) | {row["error"]:+.0%} | {memory} |'
        )
    return '\n'.join(lines) + '\n'


if __name__ == '__main__':
    main()
