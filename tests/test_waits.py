"""What makes the host wait for a GPU: copies between the two, and reading numbers of the device. Needs no GPU."""

from __future__ import annotations

import itertools
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.hooks import EMAHook
from mmengine.runner import Runner
from streams import Streams
from tiny_models import PRETRAINING, TRANSFER, batches, model_config
from tiny_run import CLASSIFY, PRETRAIN, build_runner, write_config, write_data
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.distributions import Dirichlet
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from omnimae.engine import loops
from omnimae.engine.feeding import Feed
from omnimae.registry import MODELS
from omnimae.structures import Grid, Masks, with_clips

GRID = Grid(4, 4, 4)
MASKING = {
    'random': dict(type='RandomMasking', ratio=0.75),
    'tube': dict(type='TubeMasking', ratio=0.75),
    'frame': dict(type='FrameMasking', ratio=0.5),
    'per frame': dict(type='PerFrameMasking', ratio=0.75),
    'block': dict(type='BlockMasking', ratio=0.75),
    'causal': dict(type='CausalMasking', ratio=0.75),
    'dual': dict(
        type='DualMasking',
        encoder=dict(type='TubeMasking', ratio=0.75),
        decoder=dict(type='RunningCellMasking', ratio=0.5),
    ),
}


class Waits(TorchDispatchMode):
    """Writes down the operations that need numbers of the one device on the other."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # a number of the host goes to a kernel as its argument
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor) and x.dim()]
        try:
            result = function(*args, **(kwargs or {}))
        except (DataDependentOutputException, DynamicOutputShapeException):
            self.found.append(f'{function} reads')
            raise
        tensors += [x for x in tree_leaves(result) if isinstance(x, Tensor) and x.dim()]
        if len({x.device.type for x in tensors}) > 1 and not self._is_sent(function, args, kwargs):
            self.found.append(f'{function} copies')
        return result

    def _is_sent(self, function: Any, args: Any, kwargs: Any) -> bool:
        """Whether the host sends a copy on its way, which it need not wait for."""
        to_device = function is torch.ops.aten._to_copy.default and args[0].device.type == 'cpu'
        return to_device and (kwargs or {}).get('non_blocking', False)


def waits_of(function: Any) -> list[str]:
    with Waits() as waits:
        try:
            function()
        except (DataDependentOutputException, DynamicOutputShapeException):
            pass
    return waits.found


def test_waits_are_found():
    with FakeTensorMode():
        x = torch.ones(3, device='cuda')
        assert waits_of(lambda: 2 * x + torch.tensor(3.0)) == []
        assert waits_of(lambda: x + torch.ones(3, device='cuda')) == []
        assert waits_of(lambda: torch.arange(3).to('cuda', non_blocking=True)) == []
        for wait in (
            lambda: x.sum().item(),
            lambda: bool((x > 0).any()),
            lambda: x[x > 0],
            lambda: x.cpu(),
            lambda: x + x.new_tensor([1.0, 2.0, 3.0]),
            lambda: torch.arange(3).to('cuda'),
            lambda: x.to('cpu', non_blocking=True),
            lambda: x[torch.arange(3)],
            lambda: Masks.from_hidden(x[None] > 0),
        ):
            assert len(waits_of(wait)) == 1


@pytest.mark.parametrize('method', [*PRETRAINING, *TRANSFER])
def test_a_loss_waits_for_nothing(method: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Dirichlet, 'sample', lambda self: self.concentration)  # fake tensors lack its kernel
    cfg = model_config(method)
    with torch.device('meta'):
        model = MODELS.build(cfg)
    with FakeTensorMode(allow_non_fake_inputs=True):
        model.to_empty(device='cuda')
        for batch in batches(cfg):
            batch = tree_map(lambda x: x.to('cuda') if isinstance(x, Tensor) else x, batch)
            assert waits_of(lambda batch=batch: model(**batch)) == []


@pytest.mark.parametrize('method', ['pretrain', 'videomae_v2', 'multimae', 'linear_images'])
def test_what_begins_a_step_waits_for_nothing(method: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Dirichlet, 'sample', lambda self: self.concentration)  # fake tensors lack its kernel
    cfg = model_config(method)
    with torch.device('meta'):
        model = MODELS.build(cfg)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        model.to_empty(device='cuda')
        model.data_preprocessor._device = torch.device('cuda')
        for batch in batches(cfg):
            batch = tree_map(lambda x: x.to('cuda') if isinstance(x, Tensor) else x, batch)
            batch['ids'] = [''] * 4
            parts = [with_clips(batch), with_clips(batch)]
            assert waits_of(lambda parts=parts: model.begin_step(parts, [4, 4], 8)) == []
            assert (method == 'pretrain') or 'masks' in parts[1] or 'features' in parts[1]


@pytest.mark.parametrize('name', MASKING)
def test_masks_are_drawn_on_the_device(name: str):
    generator = MODELS.build(MASKING[name])
    with FakeTensorMode():
        assert waits_of(lambda: generator(8, GRID, 'cuda')) == []
        masks = generator(8, GRID, 'cuda')
    assert {x.device.type for x in masks if x is not None} == {'cuda'}


ADAMW = dict(type='AdamW', lr=1e-2, fused=True)
MIXED = dict(
    type='ClipPreprocessor',
    erasing=dict(type='RandomErasing', fill='noise', prob=1.0),
    mixing=dict(type='MixupCutMix'),
)
STEPS = {  # config, what it changes of the wrapper and of the model
    'float32': (PRETRAIN, dict(optimizer=ADAMW), {}),
    'bfloat16': (PRETRAIN, dict(optimizer=ADAMW, dtype='bfloat16', clip_grad=dict(max_norm=1.0)), {}),
    'float16': (PRETRAIN, dict(optimizer=ADAMW, dtype='float16', clip_grad=dict(max_norm=1.0)), {}),
    'labels': (CLASSIFY, dict(optimizer=ADAMW), dict(data_preprocessor=MIXED)),
    'LARS': (CLASSIFY, dict(optimizer=dict(type='LARS', lr=1.0), clip_grad=dict(type='value', clip_value=1.0)), {}),
}


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp('data'))


def runner_of(name: str, data: Path, folder: Path) -> Runner:
    """Steps of up to three micro-batches, with every hook that a run has and the moving average."""
    text, wrapper, model = STEPS[name]
    more = f"""
optim_wrapper = dict(type='AutocastOptimWrapper', constructor='LayerDecayConstructor', **{wrapper})
model.update({model})
param_scheduler = dict(type='WarmupCosineLR', warmup_epochs=1)
train_dataloader['batch_size'] = 4
train_dataloader['batch_sampler']['global_batch_size'] = 12
custom_hooks = [dict(type='EMAHook')]
"""
    return build_runner(write_config(folder / 'config.py', text, data, more), folder / 'work')


@pytest.mark.parametrize('name', STEPS)
def test_an_optimizer_step_waits_once(name: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    runner = runner_of(name, data, tmp_path)
    streams = Streams(monkeypatch)
    loop, micro_batches = runner.train_loop, [*itertools.islice(iter(runner.train_dataloader), 3)]
    # Autograd needs a card for fake CUDA tensors. Those without data will do: reading one fails.
    monkeypatch.setattr(loops, 'choose_device', lambda: 'meta')
    torch_optimizer = sys.modules[torch.optim.Optimizer.__module__]
    monkeypatch.setattr(torch_optimizer, '_get_fused_kernels_supported_devices', lambda: ['meta'])
    reads: list[Tensor] = []

    def read(values: Tensor) -> Tensor:
        reads.append(values)
        return torch.zeros(len(values))

    runner.model.to('meta')
    loop.feed = Feed(iter([micro_batches]), runner.model.data_preprocessor)
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    runner.param_schedulers = runner.build_param_scheduler(runner.param_schedulers)
    for point in ('before_run', 'before_train', 'before_train_epoch'):
        runner.call_hook(point)
    [average] = [hook.ema_model for hook in runner.hooks if isinstance(hook, EMAHook)]
    assert average.steps.device.type == 'cpu'  # so it may be read
    with monkeypatch.context() as patch:
        patch.setattr(Tensor, 'cpu', read)
        waits = [waits_of(lambda step=step: loop.run_iter(step, micro_batches)) for step in range(2)]
    runner.call_hook('after_train')
    assert streams.events.count('send') == 3 + 1 + 3  # the first of the next step beforehand, and once more for form
    assert (len(reads), waits) == (2, [[], []])


@pytest.mark.gpu
@pytest.mark.parametrize('name', STEPS)
def test_an_optimizer_step_waits_once_on_a_gpu(name: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As PyTorch itself counts what synchronises. The first steps of each modality may set things up."""
    runner = runner_of(name, data, tmp_path)
    waits: list[list[str]] = []
    run_iter = loops.EpochTrainLoop.run_iter

    def counted(loop: loops.EpochTrainLoop, idx: int, data_batch: list[dict[str, Any]]) -> None:
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter('always')
            torch.cuda.set_sync_debug_mode('warn')
            run_iter(loop, idx, data_batch)
            torch.cuda.set_sync_debug_mode('default')
        waits.append([f'{x.filename}:{x.lineno}' for x in found if 'synchronizing CUDA' in str(x.message)])

    monkeypatch.setattr(loops.EpochTrainLoop, 'run_iter', counted)
    runner.train()
    second_epoch = waits[len(runner.train_dataloader) :]
    assert [len(x) for x in second_epoch] == [1] * len(second_epoch), second_epoch
