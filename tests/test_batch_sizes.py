"""A batch size for each modality or source: the training is that of one number, on any number of ranks."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from programs import run_ranks
from tiny_run import PRETRAIN, build_runner, write_config, write_data
from torch import Tensor

from omnimae.config import load_config
from omnimae.data.annotations import Rows
from omnimae.data.datasets import ImageDataset
from omnimae.engine import leave_distributed, setup_distributed
from omnimae.engine.hooks import _uses
from omnimae.registry import HOOKS

# Nothing is drawn within a step: masks follow raster order, nothing is dropped. Steps of 12 samples: of 20 pictures 12
# and 8, of 10 pictures in 3 crops 12, 12 and 6, of 8 videos in 2 crops 12 and 4. SGD, as AdamW would divide the noise
# in gradients that are zero, those of the keys' biases, by itself. The loss of MAEHead is float32 in any model.
THREE = """
model['backbone']['drop_path_rate'] = 0.0
model['mask_generator'] = dict.fromkeys(('image', 'video'), dict(type='CausalMasking', ratio=0.75))
train_dataloader['dataset']['sources']['crops'] = dict(pictures, root='{data}/pictures/a', replicas=3)
train_dataloader['batch_sampler']['global_batch_size'] = 12
train_cfg = dict(type='EpochTrainLoop', max_epochs=1)
optim_wrapper['optimizer'] = dict(type='SGD', lr=30.0)
param_scheduler = dict(type='WarmupCosineLR', warmup_epochs=0)
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=3))
custom_hooks = [dict(type='NotedStepsHook')]
"""
STEPS = 7


@HOOKS.register_module()
class NotedStepsHook(Hook):
    """Keeps source, sizes of the micro-batches and loss of every step."""

    stops_at = STEPS

    def before_train(self, runner: Runner) -> None:
        self.steps: dict[int, tuple[str, list[int], float]] = {}

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any, outputs: dict | None = None) -> None:
        sizes = [len(batch['clips']['rgb']) for batch in data_batch]
        self.steps[runner.iter] = data_batch[0]['source'], sizes, outputs['loss'].item()
        if runner.iter == self.stops_at:
            raise KeyboardInterrupt


def steps_of(runner: Runner) -> dict[int, tuple[str, list[int], float]]:
    return next(hook.steps for hook in runner.hooks if isinstance(hook, NotedStepsHook))


@pytest.fixture(scope='module')
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('three')
    return write_config(folder / 'pretrain.py', PRETRAIN + THREE, write_data(folder / 'data'))


@pytest.fixture(scope='module', autouse=True)
def _in_float64():
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def build(config: Path, work_dir: Path, batch_size: int | dict[str, int], **options: Any) -> Runner:
    return build_runner(config, work_dir, {'train_dataloader.batch_size': batch_size, **options})


@pytest.fixture(scope='module')
def whole(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """The training with one number, all of a step."""
    runner = build(config, tmp_path_factory.mktemp('whole'), 12)
    first = {name: value.clone() for name, value in runner.model.state_dict().items()}
    runner.train()
    assert len(steps_of(runner)) == STEPS
    moved = {name: float((value - first[name]).abs().max()) for name, value in runner.model.named_parameters()}
    assert sorted(moved.values())[len(moved) // 10] > 1e-3
    return runner


def assert_same(steps: dict[int, tuple[str, list[int], float]], weights: dict[str, Tensor], whole: Runner) -> None:
    """Losses of the steps and weights at the end."""
    expected = steps_of(whole)
    assert {step: source for step, (source, *_) in steps.items()} == {step: expected[step][0] for step in steps}
    assert [loss for *_, loss in steps.values()] == pytest.approx([expected[step][2] for step in steps], rel=1e-6)
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(weights[name], value, rtol=0, atol=1e-6)


SIZES = dict(image=2, crops=12, video=4)


@pytest.mark.parametrize(
    ('batch_size', 'cuts'),
    [
        (6, dict(pictures=([6, 6], [4, 4]), crops=([6, 6], [3, 3]), movies=([6, 6], [2, 2]))),
        (
            dict(image=3, video=2),
            dict(pictures=([3] * 4, [2] * 4), crops=([3] * 4, [3] * 4), movies=([2] * 6, [2] * 6)),
        ),
        (SIZES, dict(pictures=([2] * 6, [2, 2, 2, 2, 1, 1]), crops=([12], [6]), movies=([4] * 3, [2] * 3))),
    ],
    ids=['one number', 'modalities', 'a source of its own'],
)
def test_numbers_are_those_of_one_size(config: Path, tmp_path: Path, whole: Runner, batch_size, cuts):
    """A micro-batch that has nothing left repeats a row, which does not count."""
    runner = build(config, tmp_path, batch_size)
    runner.train()
    assert_same(steps_of(runner), runner.model.state_dict(), whole)
    for source, sizes, _ in steps_of(runner).values():
        assert sizes in cuts[source], source
    log = next(tmp_path.rglob('*.log')).read_text()
    if batch_size == SIZES:
        assert (
            'Effective batch: 12 = 2 per rank x 1 ranks x 6 accumulated micro-batches (images of pictures) '
            '= 4 per rank x 1 ranks x 3 accumulated micro-batches (videos of movies) '
            '= 12 per rank x 1 ranks x 1 accumulated micro-batches (images of crops); 7 optimizer steps per epoch'
        ) in log
    elif batch_size == 6:
        assert 'Effective batch: 12 = 6 per rank x 1 ranks x 2 accumulated micro-batches; 7 optimizer steps' in log


def train_a_rank(config: Path, folder: Path) -> None:
    torch.set_default_dtype(torch.float64)
    cfg = load_config(config, {'launcher': 'pytorch', 'train_dataloader.batch_size': dict(image=2, crops=3, video=6)})
    cfg.work_dir = str(folder / 'work')
    setup_distributed(cfg)
    runner = Runner.from_cfg(cfg)
    runner.train()
    torch.save((steps_of(runner), runner.model.module.state_dict()), folder / f'{os.environ["RANK"]}.pt')
    leave_distributed()


def test_two_ranks_train_like_one(config: Path, tmp_path: Path, whole: Runner):
    ranks = run_ranks(train_a_rank, config, tmp_path, output=tmp_path)
    assert [rank.returncode for rank in ranks] == [0, 0], ranks[0].stderr[-3000:]
    for rank in (0, 1):
        steps, weights = torch.load(tmp_path / f'{rank}.pt', weights_only=True)
        assert_same(steps, weights, whole)
        assert {source: len(sizes) for source, sizes, _ in steps.values()} == dict(pictures=3, crops=2, movies=1)


def test_a_run_goes_on_with_other_sizes(config: Path, tmp_path: Path, whole: Runner, monkeypatch):
    """What a step is made of does not depend on them; only what is drawn within a micro-batch would."""
    monkeypatch.setattr(NotedStepsHook, 'stops_at', 4)
    stopped = build(config, tmp_path, SIZES)
    with pytest.raises(KeyboardInterrupt):
        stopped.train()
    monkeypatch.undo()
    resumed = build(config, tmp_path, dict(image=6, video=2), resume=True)
    resumed.train()
    assert [*steps_of(resumed)] == [3, 4, 5, 6]
    assert_same(steps_of(resumed), resumed.model.state_dict(), whole)


@pytest.mark.parametrize(
    ('count', 'steps', 'expected'),
    [
        (8, 2, "each video of 'v' 4 times"),  # 2 steps are a pass
        (8, 5, "each video of 'v' 10 times"),
        (2, 1, "each video of 'v' 4 times (a step has 8 instead of 16 samples: there are few files)"),
    ],
)
def test_the_log_says_how_often_files_are_used(count: int, steps: int, expected: str):
    dataset = ImageDataset(root='.', ann_file=Rows([f'{i}.png' for i in range(count)], None, None), replicas=4)
    dataset.modality = 'video'
    assert _uses('v', dataset, steps, 16) == expected
