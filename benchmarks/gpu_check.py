"""Is this machine all right? Fifteen checks of training on a GPU, the most telling ones first.

python benchmarks/gpu_check.py --out FOLDER [--minutes 9] [--only NAME ...] [--data data/demo]

Each check runs in a process of its own, says PASS or FAIL with its numbers, and stops no other if it fails. Those that
``--minutes`` leaves no time for are not run. Without a GPU the checks run on the CPU with tiny models, which tries the
script and not the machine. Prints a table at the end, writes table.md and results.json, and the output of each check to
NAME.log. Exits with 1 if one failed.

The bounds of steps and loader are those of an H100 with 16 cores; smaller machines miss them and are all right.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import gc
import json
import math
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from PIL import Image
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from omnimae.apis import FeatureExtractor
from omnimae.config import infer_num_classes, load_config
from omnimae.engine import AutocastOptimWrapper, setup_distributed, setup_environment
from omnimae.engine.compiling import compile_loss
from omnimae.engine.precision import set_float32_precision
from omnimae.models.ops import attend
from omnimae.planning import GIB, Source, count_step, memory_of
from omnimae.registry import MODELS
from omnimae.structures import to_json
from omnimae.synthetic import demo

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / 'benchmarks'), str(ROOT / 'tests')]
import bench_step  # noqa: E402
import tiny_models  # noqa: E402

RECIPE = ROOT / 'configs/omnimae/vit-b_in1k-ssv2.py'
DEMO = ROOT / 'configs/demo'
TINY = dict(arch=None, embed_dim=48, depth=2, num_heads=2, patch_size=(2, 16, 16), clip_size=(4, 32, 32))
TINY_HEAD = dict(embed_dim=32, num_heads=2, depth=1)


class Machine(NamedTuple):
    """Where the checks run."""

    device: str  # 'cuda' or 'cpu'
    name: str
    memory: float  # GiB
    cores: int
    software: str
    data: Path  # of the demo
    out: Path

    @property
    def has_card(self) -> bool:
        """Whether this is a GPU; else sizes are tiny."""
        return self.device == 'cuda'


class Result(NamedTuple):
    """What a check found."""

    passed: bool | None  # None: not run
    says: str
    numbers: dict[str, Any] = {}


class Check(NamedTuple):
    """A check, and the seconds that it usually takes on a GPU."""

    run: Callable[[Machine], Result]
    seconds: float
    needs_card: bool = False


# --- what checks are made of ------------------------------------------------------------------------------------------


def seconds_of(call: Callable[[], object], machine: Machine) -> float:
    """Of a call among others, with no wait between them: the median of three times five, after three."""
    if not machine.has_card:
        return bench_step.seconds(call, machine.device)
    for _ in range(3):
        call()
    return median(bench_step.seconds(lambda: [call() for _ in range(5)], machine.device) / 5 for _ in range(3))


def recipe_model(arch: str, machine: Machine) -> nn.Module:
    """The model of configs/omnimae."""
    cfg = bench_step.model_config(arch)
    if not machine.has_card:
        cfg['backbone'].update(TINY)
        cfg['head'].update(TINY_HEAD)
    return bench_step.build(cfg, machine.device)


def classifier(arch: str, machine: Machine, **backbone: Any) -> nn.Module:
    """The classifier of configs/omnimae/finetune, with 174 classes."""
    cfg = Config.fromfile(ROOT / f'configs/omnimae/finetune/vit-{arch[0]}_ssv2.py').model.to_dict()
    cfg['init_cfg'] = None
    cfg['backbone'].update(backbone, **({} if machine.has_card else TINY))
    return bench_step.build(cfg, machine.device)


def clips_of(model: nn.Module, batch: int, modality: str = 'video') -> Tensor:
    """(B, 3, T, H, W) uint8, random, on the model's device."""
    patch, grid = model.backbone.patch_size, model.backbone.grid
    frames = 1 if modality == 'image' else grid.t * patch[0]
    size = (batch, 3, frames, grid.h * patch[1], grid.w * patch[2])
    return torch.randint(0, 256, size, dtype=torch.uint8, device=next(model.parameters()).device)


def photographs(number: int, side: int) -> Tensor:
    """(N, 3, side, side) uint8: random crops of the photographs that scikit-image carries."""
    rng, crops = np.random.default_rng(0), []
    for index in range(number):
        photo = demo.photograph(demo.PHOTOGRAPHS[index % len(demo.PHOTOGRAPHS)])
        size = int(rng.integers(side // 2, min(photo.shape[:2])))
        y, x = (int(rng.integers(0, whole - size + 1)) for whole in photo.shape[:2])
        crop = Image.fromarray(photo[y : y + size, x : x + size]).resize((side, side), Image.Resampling.BICUBIC)
        crops.append(torch.from_numpy(np.array(crop)).permute(2, 0, 1))
    return torch.stack(crops)


@contextlib.contextmanager
def float32_products(precision: str) -> Iterator[None]:
    """Compute with 'highest' or 'high' (TF32)."""
    before = torch.get_float32_matmul_precision()
    set_float32_precision(precision)
    yield
    set_float32_precision(before)


class StepsDone(BaseException):
    """Ends a run after the steps that were asked for."""


def build_runner(config: Path, machine: Machine, name: str, options: dict[str, Any], **parts: Any) -> Runner:
    """A Runner without validation and exports, as tools/train.py builds it; ``parts`` replace parts of the config."""
    setup_environment()
    cfg = load_config(config, options)
    cfg.default_hooks.pop('export')
    cfg.custom_hooks = []
    for loop in ('val', 'test'):
        for part in ('dataloader', 'cfg', 'evaluator'):
            cfg[f'{loop}_{part}'] = None
    for key, value in parts.items():
        cfg[key] = value
    infer_num_classes(cfg)
    cfg.work_dir, cfg.experiment_name, cfg.launcher = str(machine.out / 'runs' / name), name, 'none'
    shutil.rmtree(cfg.work_dir, ignore_errors=True)
    setup_distributed(cfg)
    return Runner.from_cfg(cfg)


def train_steps(runner: Runner, steps: int, around: Callable[[Callable[[], None]], None] = lambda step: step()) -> None:
    """Train so many optimizer steps; each is a call that ``around`` makes."""
    run_iter, done = runner.train_loop.run_iter, 0

    def one(idx: int, data_batch: list) -> None:
        nonlocal done
        around(lambda: run_iter(idx, data_batch))
        done += 1
        if done == steps:
            raise StepsDone

    runner.train_loop.run_iter = one
    with contextlib.suppress(StepsDone):
        runner.train()


def losses_of(runner: Runner) -> list[float]:
    """The loss of every step."""
    return [float(value) for value in runner.message_hub.get_scalar('train/loss').data[0]]


def recipe_options(machine: Machine, images: Path, videos: Path, lines: Path, global_batch_size: int) -> dict[str, Any]:
    """The recipe on these files, in micro-batches of 32."""
    loader, sources = 'train_dataloader', 'train_dataloader.dataset.sources'
    options: dict[str, Any] = {
        f'{sources}.in1k.root': str(images),
        f'{sources}.ssv2.root': str(videos),
        f'{sources}.ssv2.ann_file': str(lines),
        f'{loader}.batch_sampler.global_batch_size': global_batch_size,
        f'{loader}.batch_size': 32,
        f'{loader}.num_workers': min(machine.cores, 10),
        f'{loader}.sampler.repeats.ssv2': 1.0,
        'train_cfg.max_epochs': 100,
        'default_hooks.logger.interval': 1,
    }
    if not machine.has_card:
        options |= {f'model.backbone.{key}': value for key, value in TINY.items()}
        options |= {f'model.head.{key}': value for key, value in TINY_HEAD.items()}
        options |= {f'{sources}.{name}.transforms.0.size': 32 for name in ('in1k', 'ssv2')}
        options[f'{sources}.ssv2.num_frames'] = 4
    return options


def start(words: Sequence[object], **environment: object) -> subprocess.Popen:
    """Start a program of the project, with the python that runs this."""
    path = f'{Path(sys.executable).parent}:{os.environ["PATH"]}'
    env = {**os.environ, 'PATH': path, 'PYTHONPATH': f'{ROOT}:{os.environ.get("PYTHONPATH", "")}'}
    env |= {key: str(value) for key, value in environment.items()}
    pipe = subprocess.PIPE
    return subprocess.Popen([*map(str, words)], cwd=ROOT, env=env, stdout=pipe, stderr=subprocess.STDOUT, text=True)


def finish(process: subprocess.Popen) -> str:
    """What a program printed, when it ends by itself; its end goes to the log."""
    output = process.communicate()[0]
    print(f'--- {" ".join(process.args)}: {process.returncode}\n{output[-6000:]}', flush=True)
    return output


def scalars(work: Path) -> list[dict[str, Any]]:
    """What a run logged of its steps; what a resumed run did again counts once."""
    lines = [line for path in sorted(work.glob('*/vis_data/scalars.json')) for line in path.read_text().splitlines()]
    rows = [row for row in map(json.loads, lines) if 'lr' in row]
    return [*{row['step']: row for row in rows}.values()]


def wait_for(condition: Callable[[], bool]) -> None:
    """Return as soon as it holds."""
    while not condition():
        time.sleep(0.05)


# --- the checks -------------------------------------------------------------------------------------------------------


def check_training(machine: Machine) -> Result:
    """The recipe trains on the device, and the host waits for the device once a step at most."""
    folders = machine.data / 'images/train', machine.data / 'videos/train', machine.data / 'videos/train.txt'
    runner = build_runner(RECIPE, machine, 'training', recipe_options(machine, *folders, global_batch_size=64))
    waits: list[list[str]] = []

    def watched(step: Callable[[], None]) -> None:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            if machine.has_card:
                torch.cuda.set_sync_debug_mode('warn')
            step()
            if machine.has_card:
                torch.cuda.set_sync_debug_mode('default')
        waits.append([f'{Path(w.filename).name}:{w.lineno}' for w in caught if 'synchroniz' in str(w.message)])

    train_steps(runner, 10, watched)
    losses, device = losses_of(runner), next(runner.model.parameters()).device.type
    most, places = max(map(len, waits[2:])), {place for step in waits[2:] for place in step}
    says = f'losses {losses[0]:.3f} to {losses[-1]:.3f} on {device}; {most} waits a step: {", ".join(places) or "none"}'
    passed = device == machine.device and all(map(math.isfinite, losses)) and most <= 1
    return Result(passed, says, dict(losses=losses, waits=waits))


def check_parity(machine: Machine) -> Result:
    """Tiny models of all methods have the losses and the gradients of the CPU, in float32."""
    gaps = {}
    with float32_products('highest'), DefaultScope.overwrite_default_scope('omnimae'):
        for method in [*tiny_models.PRETRAINING, *tiny_models.TRANSFER]:
            torch.manual_seed(0)
            cfg = tiny_models.model_config(method, depth=2)
            model = MODELS.build(cfg).train()
            twin = copy.deepcopy(model).to(machine.device)
            for given in tiny_models.batches(cfg):
                if hasattr(model, 'draw_masks'):
                    given['masks'] = model.draw_masks(**given)
                gaps[f'{method} {given.get("modality", "")}'] = _gaps(model, twin, given, machine.device)
    worst = [max(gap[i] for gap in gaps.values()) for i in (0, 1)]
    far = [name for name, gap in gaps.items() if gap[0] >= 1e-5 or gap[1] >= 1e-3]
    says = f'{len(gaps)} steps: losses within {worst[0]:.1e}, norms of gradients within {worst[1]:.1e}'
    return Result(not far, says + f'; too far: {", ".join(far)}' * bool(far), dict(gaps=gaps))


def _gaps(model: nn.Module, twin: nn.Module, given: dict[str, Any], device: str) -> tuple[float, float]:
    losses, norms = [], []
    there = tree_map(lambda x: x.to(device) if isinstance(x, Tensor) else x, given)
    for one, inputs in ((model, given), (twin, there)):
        one.zero_grad()
        loss = one(**inputs, mode='loss')['loss']
        loss.backward()
        losses.append(loss.item())
        norms.append([0.0 if p.grad is None else p.grad.norm().item() for p in one.parameters()])
    noise = 1e-3 * max(norms[0])
    return abs(losses[1] / losses[0] - 1), max(abs(a - b) / max(a, noise) for a, b in zip(*norms, strict=True))


def check_drift(machine: Machine) -> Result:
    """Training in bfloat16 goes where float32 goes."""
    steps, batch, side = (200, 32, 224) if machine.has_card else (6, 4, 32)
    photos = photographs(8 * batch, side).to(machine.device)[:, :, None]
    torch.manual_seed(0)
    first, ends, seen = recipe_model('base', machine), {}, {}
    for dtype in (None, 'bfloat16'):
        model, losses, generator = copy.deepcopy(first), [], torch.Generator().manual_seed(0)
        wrapper = AutocastOptimWrapper(torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), fused=True), dtype)
        for kind in (nn.LayerNorm, nn.Linear) if dtype else ():
            for module in filter(lambda module, kind=kind: isinstance(module, kind), model.modules()):
                kinds = seen.setdefault(kind.__name__, set())
                module.register_forward_hook(lambda _, args, out, kinds=kinds: kinds.add(str(out.dtype)[6:]))
        for step in range(steps):
            wrapper.optimizer.param_groups[0]['lr'] = 3e-4 * min(1.0, 4 * (step + 1) / steps)
            torch.manual_seed(step)  # of the masks
            with wrapper.optim_context(model), float32_products('highest'):
                clip = photos[torch.randint(len(photos), (batch,), generator=generator)]
                loss = model(clip=clip, modality='image', mode='loss')['loss']
            wrapper.update_params(loss)
            losses.append(loss.detach())
        ends[dtype] = torch.stack(losses[-steps // 4 :]).mean().item()
    gap = abs(ends['bfloat16'] / ends[None] - 1)
    right = loss.dtype == torch.float32 and (seen['LayerNorm'] == {'float32'} or not machine.has_card)
    says = f'after {steps} steps {ends[None]:.4f} in float32, {ends["bfloat16"]:.4f} in bfloat16: {100 * gap:.2f} %; '
    return Result(gap < 0.01 and right, f'{says}{seen}', dict(gap=gap))


def check_steps(machine: Machine) -> Result:
    """Time of forward and backward in bfloat16 and its share of the peak; ViT-B beside the plain path."""
    size = 8192 if machine.has_card else 256
    peak = 10 * size**3 / seconds_of(bench_step.product(size, torch.bfloat16, machine.device), machine)
    rows: dict[tuple, dict[str, float]] = {}
    for arch in ('base', 'large', 'huge') if machine.has_card else ('base',):
        rows |= _time_steps(arch, peak, machine)
    named = {' '.join(map(str, key)): row for key, row in rows.items()}
    if not machine.has_card:
        return Result(True, 'tiny steps ran', dict(rows=named))
    ours = {key[:3]: row for key, row in rows.items() if key[3] == 'ours'}
    images = [ours['base', 'image', batch]['samples_per_second'] for batch in (32, 256)]
    pairs = [(rows[('base', *case, 'plain')], ours[('base', *case)]) for case in (('image', 256), ('video', 32))]
    plain = [theirs['ms'] / own['ms'] for theirs, own in pairs]
    found = {
        'B, 256 images, % of the peak': (100 * ours['base', 'image', 256]['share'], 20),
        'their images/s over those of 32': (images[1] / images[0], 5),
        'B, 32 clips, % of the peak': (100 * ours['base', 'video', 32]['share'], 20),
        'L': (100 * ours['large', 'video', 32]['share'], 25),
        'H': (100 * ours['huge', 'video', 32]['share'], 30),
        'H, clips/s': (ours['huge', 'video', 32]['samples_per_second'], 230),
        'time of the plain path over ours, B, images': (plain[0], 1.5),
        'clips': (plain[1], 2.5),
    }
    parts = [f'{what} {value:.3g}' + f' < {least}' * (value < least) for what, (value, least) in found.items()]
    says = f'peak {peak / 1e12:.0f} TFLOP/s; {"; ".join(parts)}'
    passed = all(value >= least for value, least in found.values())
    return Result(passed, says, dict(rows=named, peak_tflops=peak / 1e12))


def _time_steps(arch: str, peak: float, machine: Machine) -> dict[tuple, dict[str, float]]:
    model, rows = recipe_model(arch, machine), {}
    cases = [('image', 32), ('image', 256), ('video', 32), ('video', 64)]
    for modality, batch in cases if machine.has_card else [('image', 2), ('video', 2)]:
        this = bench_step.setup(model, modality, batch)
        ways = {'ours': bench_step.ours(this)}
        if arch == 'base' and (modality, batch) in (('image', 256), ('video', 32)):
            ways['plain'] = bench_step.plain(this)
        for way, contender in ways.items():

            def step(contender: bench_step.Contender = contender) -> None:
                bench_step.step(contender, 'bf16', machine.device)

            taken = seconds_of(step, machine)
            row = dict(ms=1000 * taken, share=this.flops / taken / peak, samples_per_second=batch / taken)
            rows[arch, modality, batch, way] = row
            if machine.has_card and arch == 'base' and way == 'ours':
                row['busy_ms'], row['kernels'] = _busy(step)
            print(arch, modality, batch, way, row, flush=True)
    return rows


def _busy(step: Callable[[], None]) -> tuple[float, int]:
    """Milliseconds that the GPU computes for a step, and its kernels; the log gets both sides' longest."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as traced:
        for _ in range(3):
            step()
        torch.cuda.synchronize()
    for key in ('self_cpu_time_total', 'self_cuda_time_total'):
        print(traced.key_averages().table(sort_by=key, row_limit=20, max_name_column_width=50))
    kernels = [event for event in traced.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    return sum(event.time_range.elapsed_us() for event in kernels) / 3000, len(kernels) // 3


def check_attention(machine: Machine) -> Result:
    """Every shape of attention has a fused kernel; its speed beside PyTorch's other ones."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    rows: dict[str, dict[str, float]] = {}
    unfused = []
    for name, shape in {
        'decoder, clips': (32, 16, 1568, 24),
        'decoder, images': (256, 16, 196, 24),
        'encoder, clips': (32, 12, 79, 64),
        'fine-tuning H': (8, 16, 1568, 80),
        'g': (6, 16, 2048, 88),
    }.items():
        q, k, v = (torch.randn(*shape, device='cuda', dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
        gradient = torch.ones_like(q)

        def step(q: Tensor = q, k: Tensor = k, v: Tensor = v, gradient: Tensor = gradient) -> None:
            attend(q, k, v).backward(gradient)

        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as traced:
            step()
            torch.cuda.synchronize()
        if any('softmax' in event.name.lower() for event in traced.events()):
            unfused.append(name)
        work = 14 * shape[0] * shape[1] * shape[2] ** 2 * shape[3] / 1e12
        rows[name] = dict(ours=work / seconds_of(step, machine))
        for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION):
            with sdpa_kernel(backend), contextlib.suppress(RuntimeError):  # it may not have this shape
                rows[name][backend.name] = work / seconds_of(step, machine)
    says = '; '.join(f'{name} {row["ours"]:.0f} TFLOP/s (best {max(row.values()):.0f})' for name, row in rows.items())
    return Result(not unfused, says + f'; not fused: {unfused}' * bool(unfused), dict(tflops=rows))


def check_memory(machine: Machine) -> Result:
    """A whole step of two micro-batches needs what tools/plan.py says."""
    cases = [('base', 32, None), ('large', 32, None), ('huge', 32, None), ('base', 8, {}), ('large', 8, {}),
             ('huge', 8, dict(grad_checkpointing=True))]  # fmt: skip
    if not machine.has_card:
        cases = [('base', 2, None), ('base', 2, {})]
    rows = {
        f'{arch} {"pretraining" if backbone is None else "fine-tuning"}, {batch} clips': _gibibytes(
            recipe_model(arch, machine) if backbone is None else classifier(arch, machine, **backbone), batch, machine
        )
        for arch, batch, backbone in cases
    }
    if not machine.has_card:
        return Result(True, 'tiny steps ran', dict(rows=rows))
    gaps = {name: foretold / measured - 1 for name, (foretold, measured) in rows.items()}
    parts = [f'{name}: {rows[name][1]:.1f} GiB, plan.py {100 * gap:+.0f} %' for name, gap in gaps.items()]
    return Result(max(map(abs, gaps.values())) <= 0.1, '; '.join(parts), dict(rows=rows))


def _gibibytes(model: nn.Module, batch: int, machine: Machine) -> tuple[float, float]:
    """GiB of a step, as tools/plan.py foretells it and as it is; neither has the driver or the next micro-batch."""
    clip = clips_of(model, batch)
    labels = (
        {'labels': torch.zeros(batch, dtype=torch.int64, device=machine.device)} if hasattr(model, 'logits') else {}
    )

    def given(size: int) -> dict[str, Any]:
        blank = {key: torch.zeros(size, *x.shape[1:], dtype=x.dtype) for key, x in (('clip', clip), *labels.items())}
        return dict(blank, modality='video')

    source = Source('', 'video', None, '', 1, 1.0, {'clip': (tuple(clip.shape[1:]), torch.uint8)}, None)
    plan = memory_of(
        model, count_step(copy.deepcopy(model).to('meta'), given, reduced=True), source, ema=False, num_shards=1
    )
    foretold = plan.of(batch) - plan.fixed['CUDA, cuBLAS'] - clip.nbytes
    if machine.has_card:
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    wrapper = AutocastOptimWrapper(torch.optim.AdamW(model.parameters(), fused=machine.has_card), dtype='bfloat16')
    for _ in range(3):
        wrapper.begin_step([1.0, 1.0])
        for _ in range(2):
            with wrapper.optim_context(model):
                loss = model(clip=clip, modality='video', mode='loss', **labels)['loss']
            wrapper.update_params(loss)
    measured = torch.cuda.max_memory_allocated() if machine.has_card else 0
    return foretold / GIB, measured / GIB


def check_compile(machine: Machine) -> Result:
    """Compiled: a graph for each modality, no break, no recompilation, the losses of eager, and faster."""
    from torch._dynamo.utils import counters

    torch.manual_seed(0)
    model = recipe_model('base', machine)
    twin, keys = copy.deepcopy(model), [*model.state_dict()]
    batch = 32 if machine.has_card else 2
    clips = {modality: clips_of(model, batch, modality) for modality in ('image', 'video')}
    compile_loss(model, True if machine.has_card else dict(backend='aot_eager'))  # the CPU's compiler takes minutes
    counters.clear()

    def step(one: nn.Module, modality: str) -> Tensor:
        torch.manual_seed(0)
        with torch.autocast(machine.device, torch.bfloat16):
            loss = one(clip=clips[modality], modality=modality, mode='loss')['loss']
        loss.backward()
        one.zero_grad()
        return loss.detach()

    graphs, gaps, ends = [], [], [time.perf_counter()]
    for _ in range(3):
        for modality in clips:
            losses = [step(one, modality).item() for one in (model, twin)]
            gaps.append(abs(losses[0] / losses[1] - 1))
        graphs.append(counters['stats']['unique_graphs'])
        ends.append(time.perf_counter())
    breaks = sum(counters['graph_break'].values())
    gain = {}
    for modality in clips:
        taken = [seconds_of(lambda one=one, modality=modality: step(one, modality), machine) for one in (model, twin)]
        gain[modality] = taken[1] / taken[0]
    says = (
        f'{graphs[-1]} graphs in {ends[1] - ends[0]:.0f} s, {breaks} breaks, {graphs[-1] - graphs[0]} recompilations, '
        f'losses within {max(gaps):.1e}; {gain["image"]:.2f} times as fast on {batch} images, {gain["video"]:.2f} on '
        f'{batch} clips'
    )
    right = graphs[0] == graphs[-1] == 2 and breaks == 0 and max(gaps) < 1e-3 and keys == [*model.state_dict()]
    is_fast = gain['image'] >= 1.5 and gain['video'] >= 1.15
    return Result(right and (is_fast or not machine.has_card), says, dict(graphs=graphs, gaps=gaps, gain=gain))


def check_resume(machine: Machine) -> Result:
    """tools/train.py, stopped by SIGTERM and resumed, makes the steps that it would have made; then on the CPU."""
    repeats, stop, amp = (1, 20, ['--amp']) if machine.has_card else (0.25, 5, [])
    kinds = {'near': [], 'exact': ['randomness.deterministic=True']}
    options = ['default_hooks.logger.interval=1', 'train_cfg.max_epochs=2', 'train_dataloader.pin_memory=True',
               'train_cfg.val_interval=2', f'train_dataloader.sampler.repeats.images={repeats}',
               f'train_dataloader.sampler.repeats.videos={repeats}']  # fmt: skip
    folder = machine.out / 'runs/resume'
    shutil.rmtree(folder, ignore_errors=True)

    def train(kind: str, part: str, *more: object, **environment: str) -> subprocess.Popen:
        words = [
            sys.executable,
            'tools/train.py',
            DEMO / 'pretrain.py',
            '--work-dir',
            folder / kind / part,
            *amp,
            *more,
        ]
        environment |= dict(OMNIMAE_DATA=str(machine.data.parent), CUBLAS_WORKSPACE_CONFIG=':4096:8')
        return start([*words, '--cfg-options', *options, *kinds[kind]], **environment)

    whole = [train(kind, 'whole') for kind in kinds]
    parts = {kind: train(kind, 'parts') for kind in kinds}
    for kind, process in parts.items():
        wait_for(lambda kind=kind: len(scalars(folder / kind / 'parts')) >= stop or parts[kind].poll() is not None)
        process.send_signal(signal.SIGTERM)
    for process in parts.values():
        finish(process)
    done = {kind: len(scalars(folder / kind / 'parts')) for kind in kinds}
    shutil.copytree(folder / 'near/parts', folder / 'near/cpu')
    resumed = [train(kind, 'parts', '--resume') for kind in kinds]
    cpu = train('near', 'cpu', '--resume', folder / 'near/cpu/preempted.pth', CUDA_VISIBLE_DEVICES='')
    for process in [*resumed, *whole]:
        finish(process)
    wait_for(lambda: len(scalars(folder / 'near/cpu')) >= done['near'] + 2 or cpu.poll() is not None)
    moved = len(scalars(folder / 'near/cpu')) - done['near']
    cpu.terminate()
    finish(cpu)
    gaps = {}
    for kind in kinds:
        ends = ([row['loss'] for row in scalars(folder / kind / part)] for part in ('whole', 'parts'))
        gaps[kind] = [abs(a - b) / a for a, b in zip(*ends, strict=True)]
    first, codes = gaps['near'][done['near']], {process.returncode for process in parts.values()}
    says = (
        f'exit codes {codes}; the first loss after the stop differs by {first:.1e}; with deterministic=True all '
        f'{len(gaps["exact"])} steps by {max(gaps["exact"]):.1e}; {moved} steps more on the CPU'
    )
    return Result(codes == {75} and first < 1e-5 and max(gaps['exact']) == 0 < moved, says, dict(gaps=gaps, stop=done))


# What hooks and loops exchange, through the functions that they call. One rank exchanges nothing otherwise.
EXCHANGE = """
import sys
from unittest.mock import patch
import torch
import torch.distributed as dist
from mmengine.dist import all_reduce
dist.init_process_group(sys.argv[1], init_method=f'file://{sys.argv[2]}', rank=0, world_size=1)
pair, value, found = torch.tensor([2, 4]), torch.tensor(2.5), [None]
with patch('mmengine.dist.dist.get_world_size', return_value=2):
    all_reduce(pair)
    all_reduce(value, 'max')
dist.all_gather_object(found, 'abc')
dist.barrier()
print(pair.tolist(), value.item(), found)
dist.destroy_process_group()
"""


def check_nccl(machine: Machine) -> Result:
    """dist_train.sh with one rank trains, validates and saves; NCCL takes all that hooks exchange."""
    work = machine.out / 'runs/nccl'
    shutil.rmtree(work, ignore_errors=True)
    options = ['train_cfg.max_epochs=1', 'train_cfg.val_interval=1', 'param_scheduler.warmup_epochs=0',
               'default_hooks.checkpoint.interval=1', 'train_dataloader.sampler.repeats.videos=0.25']  # fmt: skip
    words = ['bash', 'tools/dist_train.sh', DEMO / 'pretrain.py', 1, '--work-dir', work, '--cfg-options', *options]
    process = start(words, OMNIMAE_DATA=machine.data.parent, PORT=29500 + os.getpid() % 500)
    odd = [line for line in finish(process).splitlines() if 'barrier' in line.lower() and 'warn' in line.lower()]
    saved = sorted(path.name for path in work.glob('epoch_1*'))
    backend = 'nccl' if machine.has_card else 'gloo'
    answer = finish(start([sys.executable, '-c', EXCHANGE, backend, work / 'store'])).splitlines()[-1]
    says = f'exit code {process.returncode}, saved {saved}, {len(odd)} warnings about a barrier, exchanged {answer}'
    passed = process.returncode == 0 and not odd and bool(saved) and answer == "[2, 4] 2.5 ['abc']"
    return Result(passed, says, dict(warnings=odd))


def check_ranks(machine: Machine) -> Result:
    """More ranks than GPUs end with one sentence."""
    ranks = torch.cuda.device_count() + 1
    words = ['bash', 'tools/dist_train.sh', DEMO / 'pretrain.py', ranks, '--work-dir', machine.out / 'runs/ranks']
    process = start(words, OMNIMAE_DATA=machine.data.parent, PORT=29500 + os.getpid() % 500)
    output = finish(process)
    said = [line for line in output.splitlines() if f'{ranks} ranks on this machine' in line]
    passed = process.returncode != 0 and bool(said) and 'invalid device ordinal' not in output
    return Result(passed, said[0][:150] if said else f'exit code {process.returncode}, and nothing is said of it')


def check_evaluation(machine: Machine) -> Result:
    """Clips a second of a test in float32, with TF32 and in bfloat16, and how far the logits move."""
    torch.manual_seed(0)
    model, batch = classifier('base', machine).eval(), 16 if machine.has_card else 2
    noise = clips_of(model, batch)
    clip = photographs(batch, noise.shape[-1]).to(machine.device)[:, :, None].expand_as(noise)

    def logits(precision: str, dtype: torch.dtype | None) -> Tensor:
        autocast = torch.autocast(machine.device, dtype or torch.bfloat16, enabled=dtype is not None)
        with torch.inference_mode(), float32_products(precision), autocast:
            return model.predict(clip).float()

    ways = dict(float32=('highest', None), tf32=('high', None), bfloat16=('highest', torch.bfloat16))
    rates = {name: batch / seconds_of(lambda way=way: logits(*way), machine) for name, way in ways.items()}
    answers = {name: logits(*way) for name, way in ways.items()}
    exact = answers['float32']
    moved = {name: ((answer - exact).abs().max() / exact.std()).item() for name, answer in answers.items()}
    says = '; '.join(f'{name}: {rate:.0f} clips/s, off by {moved[name]:.4f} std' for name, rate in rates.items())
    passed = moved['bfloat16'] < 0.1 and (rates['bfloat16'] > 4 * rates['float32'] or not machine.has_card)
    return Result(passed, says, dict(clips_per_second=rates, moved=moved))


def check_feeding(machine: Machine) -> Result:
    """The loader feeds the recipe: the share of the time in which a run waits for data."""
    data, rows = feeding_data(machine), {}
    for workers in (10, machine.cores - 1) if machine.has_card else (1,):
        size = 128 if machine.has_card else 32
        options = recipe_options(machine, data / 'images', data / 'videos', data / 'videos.txt', size)
        options['train_dataloader.num_workers'] = workers
        for source in ('in1k', 'ssv2'):  # an epoch long enough for the start of the workers not to count
            options[f'train_dataloader.sampler.repeats.{source}'] = 8.0
        runner = build_runner(RECIPE, machine, f'feeding-{workers}', options)
        begin, samples = time.perf_counter(), {'image': 0, 'video': 0}
        for batch in runner.train_dataloader:
            samples[batch['modality']] += len(batch['ids'])
        alone = time.perf_counter() - begin
        train_steps(runner, len(runner.train_dataloader))
        logged = scalars(Path(runner.work_dir))[8:]
        waiting = sum(row['data_time'] for row in logged) / sum(row['time'] for row in logged)
        rows[workers] = dict(alone={m: n / alone for m, n in samples.items()}, waiting=waiting)
        for key in ('images_per_second', 'clips_per_second'):
            rows[workers][key] = mean(row[key] for row in logged if key in row)
        print(workers, rows[workers], flush=True)
    says = '; '.join(
        f'{workers} workers: {row["alone"]["image"]:.0f} images and {row["alone"]["video"]:.0f} clips a second alone, '
        f'{100 * row["waiting"]:.0f} % of a run is waiting'
        for workers, row in rows.items()
    )
    return Result(min(row['waiting'] for row in rows.values()) < 0.1 or not machine.has_card, says, dict(rows=rows))


def feeding_data(machine: Machine) -> Path:
    """Photographs of 500 x 375 and H.264 videos of 3 seconds, 340 x 256."""
    root, (images, videos) = machine.out / 'feeding', (256, 64) if machine.has_card else (32, 16)
    for folder in ('images/a', 'videos'):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for index in range(images):
        photo = Image.fromarray(demo.photograph(demo.PHOTOGRAPHS[index % len(demo.PHOTOGRAPHS)]))
        photo.resize((500, 375), Image.Resampling.BICUBIC).save(root / f'images/a/{index}.jpg', quality=90)
    with multiprocessing.get_context('fork').Pool(machine.cores) as pool:
        pool.map(_write_video, [root / f'videos/{index}.mp4' for index in range(videos)])
    (root / 'videos.txt').write_text(''.join(f'{index}.mp4 0\n' for index in range(videos)))
    return root


def _write_video(path: Path) -> None:
    photo = demo.photograph(demo.PHOTOGRAPHS[int(path.stem) % len(demo.PHOTOGRAPHS)])
    frames = (np.ascontiguousarray(photo[t : t + 256, t : t + 340]) for t in range(72))
    demo.write_video(path, frames, 24, (256, 340))


def check_variants(machine: Machine) -> Result:
    """EMA, clipping, LARS and float16 train on the device."""
    os.environ['OMNIMAE_DATA'] = str(machine.data.parent)
    found = {}
    for name, config, options, parts in (
        ('ema', 'pretrain', {}, dict(custom_hooks=[dict(type='EMAHook', momentum=0.01)])),
        ('clip', 'pretrain', {'optim_wrapper.clip_grad': dict(max_norm=0.02), 'optim_wrapper.dtype': 'bfloat16'}, {}),
        ('lars', 'linear_images', {'model.init_cfg': None}, {}),
        ('float16', 'pretrain', {'optim_wrapper.dtype': 'float16'}, {}),
    ):
        options = {**options, 'train_dataloader.pin_memory': True, 'default_hooks.logger.interval': 1}
        runner = build_runner(DEMO / f'{config}.py', machine, f'variant-{name}', options, **parts)
        train_steps(runner, 5)
        found[name] = {'finite': all(map(math.isfinite, losses_of(runner)))}
        for key in {'train/grad_norm', 'train/loss_scale'} & {*runner.message_hub.log_scalars}:
            found[name][key] = float(runner.message_hub.get_scalar(key).current())
        if name == 'ema':
            [hook] = [hook for hook in runner.hooks if type(hook).__name__ == 'EMAHook']
            found[name]['device'] = next(hook.ema_model.parameters()).device.type
    finite = all(row['finite'] for row in found.values())
    passed = finite and found['ema']['device'] == machine.device and found['clip']['train/grad_norm'] > 0
    return Result(passed and found['float16'].get('train/loss_scale', 0) > 0, f'{found}', found)


def check_features(machine: Machine) -> Result:
    """Frozen features and k-NN are those of the CPU."""
    os.environ['OMNIMAE_DATA'] = str(machine.data.parent)
    weights, folders = machine.out / 'random.pth', (machine.data / 'images/val', machine.data / 'videos/val')
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('omnimae'):
        model = MODELS.build(load_config(DEMO / 'pretrain.py').model)
    torch.save(dict(state_dict=model.state_dict(), meta={}), weights)
    files = [str(path) for folder in folders for path in [*sorted(folder.rglob('*.*'))[:32]]]
    tests = []
    for name, environment in (('cpu', dict(CUDA_VISIBLE_DEVICES='')), ('device', {})):
        paths = ['--out', machine.out / f'knn_{name}.json', '--work-dir', machine.out / 'runs' / name]
        words = [sys.executable, 'tools/test.py', DEMO / 'knn_images.py', weights, *paths]
        tests.append(start(words, **environment))
    vectors = []
    for device in ('cpu', machine.device):
        extractor = FeatureExtractor(str(DEMO / 'pretrain.py'), str(weights), device=device)
        with float32_products('highest'):
            vectors.append(np.stack([vector.features for vector in extractor(files)]))
    for process in tests:
        finish(process)
    scores = [json.loads((machine.out / f'knn_{name}.json').read_text())['accuracy/top1'] for name in ('cpu', 'device')]
    gap = float(np.abs(vectors[0] - vectors[1]).max() / np.abs(vectors[0]).max())
    says = f'{len(files)} features within {gap:.1e}; k-NN {scores[0]:.2f} and {scores[1]:.2f} %'
    return Result(gap < 1e-3 and abs(scores[0] - scores[1]) < 0.5, says, dict(gap=gap, scores=scores))


def check_checkpoint(machine: Machine) -> Result:
    """Seconds that a checkpoint of ViT-H with its optimizer takes."""
    setup_environment()
    from mmengine.runner import checkpoint  # with what setup_environment changed

    model = recipe_model('huge', machine)
    optimizer = torch.optim.AdamW(model.parameters(), fused=machine.has_card)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    begin = time.perf_counter()
    state = dict(state_dict=model.state_dict(), optimizer=optimizer.state_dict())
    state = tree_map(lambda x: x.cpu() if isinstance(x, Tensor) else x, state)
    moved = time.perf_counter() - begin
    checkpoint.save_checkpoint(state, str(machine.out / 'huge.pth'))
    written = time.perf_counter() - begin - moved
    (machine.out / 'huge.pth').unlink()
    size = sum(x.nbytes for x in tree_leaves(state) if isinstance(x, Tensor)) / 1e9
    says = f'{size:.1f} GB: {moved:.1f} s from the device, {written:.1f} s to the disk'
    return Result(moved + written < 25, says, dict(gigabytes=size, moved=moved, written=written))


CHECKS = {
    'training': Check(check_training, 20),
    'parity': Check(check_parity, 15),
    'drift': Check(check_drift, 30),
    'steps': Check(check_steps, 60),
    'attention': Check(check_attention, 15, needs_card=True),
    'memory': Check(check_memory, 45),
    'compile': Check(check_compile, 75),
    'resume': Check(check_resume, 75),
    'nccl': Check(check_nccl, 30),
    'ranks': Check(check_ranks, 20, needs_card=True),
    'evaluation': Check(check_evaluation, 20),
    'feeding': Check(check_feeding, 60),
    'variants': Check(check_variants, 20),
    'features': Check(check_features, 60),
    'checkpoint': Check(check_checkpoint, 30),
}


# --- how they are run -------------------------------------------------------------------------------------------------


def parse_args(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description='Fifteen checks of training on a GPU.')
    parser.add_argument('--out', type=Path, required=True, metavar='FOLDER', help='where tables, logs and runs go')
    parser.add_argument('--minutes', type=float, default=9.0, help='of all checks together; the last ones are left out')
    parser.add_argument('--only', nargs='+', choices=list(CHECKS), metavar='NAME', help=f'of {", ".join(CHECKS)}')
    parser.add_argument('--data', type=Path, default=Path('data/demo'), help='the demo data; made if they are missing')
    return parser.parse_args(words)


def look(data: Path, out: Path) -> Machine:
    """At the machine, and make the demo data if they are missing."""
    if not data.exists():
        demo.make_demo(data, workers=os.cpu_count() or 1)
    places = len(os.sched_getaffinity(0)), f'torch {torch.__version__}, Python {sys.version.split()[0]}', data, out
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        return Machine('cuda', card.name, card.total_memory / GIB, *places)
    cpus = [line.split(':')[1].strip() for line in Path('/proc/cpuinfo').open() if line.startswith('model name')]
    return Machine('cpu', cpus[0] if cpus else 'CPU', 0.0, *places)


def run_check(name: str, machine: Machine, limit: float) -> Result:
    """Run a check in a process of its own, for ``limit`` seconds at most."""
    context = multiprocessing.get_context('spawn')  # a fork could not use the GPU, which this process has looked at
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_in_child, args=(name, machine, sender))
    process.start()
    sender.close()
    result = Result(False, f'it did not end within {limit:.0f} s, see {name}.log')
    if receiver.poll(limit):
        try:
            result = receiver.recv()
        except EOFError:
            process.join()
            result = Result(False, f'it died with {process.exitcode}, see {name}.log')
    for number in (signal.SIGTERM, signal.SIGKILL):  # its loader's workers and programs too; torchrun ends its own
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        process.join(3)
    return result


def _in_child(name: str, machine: Machine, sender: Any) -> None:
    os.setsid()
    log = (machine.out / f'{name}.log').open('w', buffering=1)
    for descriptor in (1, 2):  # of programs that it starts
        os.dup2(log.fileno(), descriptor)
    sys.stdout = sys.stderr = log
    if not machine.has_card:
        torch.set_num_threads(1)
    try:
        sender.send(CHECKS[name].run(machine))
    except Exception as error:
        traceback.print_exc()
        sender.send(
            Result(False, f'{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}, see {name}.log')
        )


def table(machine: Machine, results: dict[str, tuple[Result, float]]) -> str:
    """Markdown, a line for each check."""
    size = f'{machine.memory:.0f} GiB, ' if machine.has_card else ''
    lines = [f'{machine.name}, {size}{machine.cores} cores; {machine.software}', '', '| check | | seconds | found |']
    lines += ['|---|---|---|---|']
    for name, (result, seconds) in results.items():
        lines.append(f'| {name} | {_word(result)} | {seconds:.0f} | {result.says} |')
    return '\n'.join(lines) + '\n'


def _word(result: Result) -> str:
    return {True: 'PASS', False: 'FAIL', None: '-'}[result.passed]


def main(words: Sequence[str] | None = None) -> None:
    """Check and write the table."""
    begin, args = time.monotonic(), parse_args(words)
    args.out.mkdir(parents=True, exist_ok=True)
    machine = look(args.data.resolve(), args.out.resolve())
    results: dict[str, tuple[Result, float]] = {}
    for name in args.only or CHECKS:
        check, now = CHECKS[name], time.monotonic()
        left = 60 * args.minutes - (now - begin)
        if check.needs_card and not machine.has_card:
            result = Result(None, 'needs a GPU')
        elif left < check.seconds / 2:
            result = Result(None, 'no time left')
        else:
            result = run_check(name, machine, min((3 if machine.has_card else 10) * check.seconds, left))
        results[name] = result, time.monotonic() - now
        print(f'{_word(result):4} {name} ({results[name][1]:.0f} s): {result.says}', flush=True)
        rows = {key: dict(result._asdict(), seconds=taken) for key, (result, taken) in results.items()}
        record = dict(machine={**machine._asdict(), 'data': None, 'out': None}, checks=rows)
        (args.out / 'results.json').write_text(to_json(record, indent=1) + '\n')
        (args.out / 'table.md').write_text(table(machine, results))
    print('\n' + table(machine, results))
    raise SystemExit(any(result.passed is False for result, _ in results.values()))


if __name__ == '__main__':
    main()
