"""A run that stops inside an epoch and is resumed is the run that never stopped, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from streams import Streams
from tiny_run import CLASSIFY, PRETRAIN, build_runner, write_config, write_data

from omnimae.data.datasets import ImageDataset, VideoDataset
from omnimae.registry import DATASETS, HOOKS
from omnimae.structures import Address, Sample

STEPS = 10  # two epochs
SAVED, STOPPED = 7, 8  # steps done at the last checkpoint, in the second epoch, and when the run stops


class NotedReads:
    """Writes every address that is read into a file, from whatever process."""

    log: Path

    def __getitem__(self, key: int | Address) -> Sample:
        with self.log.open('a') as file:
            file.write(f'{tuple(key)}\n')
        return super().__getitem__(key)


@DATASETS.register_module()
class NotedImages(NotedReads, ImageDataset):
    """Images."""


@DATASETS.register_module()
class NotedVideos(NotedReads, VideoDataset):
    """Videos."""


@HOOKS.register_module()
class LossesHook(Hook):
    """Keeps the loss of every step."""

    def before_train(self, runner: Runner) -> None:
        self.losses: dict[int, float] = {}

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any, outputs: dict | None = None) -> None:
        self.losses[runner.iter] = outputs['loss'].item()


@HOOKS.register_module()
class StopHook(Hook):
    """Breaks off after a number of steps, when everything else has happened."""

    priority = 'LOWEST'

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any, outputs: dict | None = None) -> None:
        if runner.iter + 1 == self.steps:
            raise KeyboardInterrupt


def losses_of(runner: Runner) -> dict[int, float]:
    return next(hook.losses for hook in runner.hooks if isinstance(hook, LossesHook))


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


@pytest.mark.parametrize(
    ('num_workers', 'batch_size', 'on_gpu'), [(0, 4, False), (2, dict(image=4, video=2), False), (2, 4, True)]
)
def test_stop_in_an_epoch_and_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_workers, batch_size, on_gpu):
    torch.set_num_threads(1)
    if on_gpu:
        Streams(monkeypatch)  # a step is read while the one before is trained
    data = write_data(tmp_path / 'data')
    text = PRETRAIN.replace("'ImageDataset'", "'NotedImages'").replace("'VideoDataset'", "'NotedVideos'")
    config = write_config(tmp_path / 'pretrain.py', text, data)
    options = {
        'train_dataloader.batch_size': batch_size,
        'train_dataloader.num_workers': num_workers,
        'train_dataloader.persistent_workers': num_workers > 0,
        'default_hooks.checkpoint': dict(type='CheckpointHook', by_epoch=False, interval=SAVED),
    }

    def run(name: str, *hooks: dict, **more: Any) -> Runner:
        monkeypatch.setattr(NotedReads, 'log', tmp_path / f'{name}.reads', raising=False)
        custom_hooks = [dict(type='EMAHook', momentum=0.1), dict(type='LossesHook'), *hooks]
        return build_runner(config, tmp_path / name.split('-')[0], {**options, 'custom_hooks': custom_hooks, **more})

    whole = run('whole')
    whole.train()
    stopped = run('parts-1', dict(type='StopHook', steps=STOPPED))
    with pytest.raises(KeyboardInterrupt):
        stopped.train()
    resumed = run('parts-2', resume=True)
    resumed.train()

    assert losses_of(stopped) == {step: losses_of(whole)[step] for step in range(STOPPED)}
    assert losses_of(resumed) == {step: losses_of(whole)[step] for step in range(SAVED, STEPS)}
    ends = [torch.load(tmp_path / name / f'iter_{STEPS}.pth', weights_only=True) for name in ('whole', 'parts')]
    for key in ('state_dict', 'ema_state_dict', 'optimizer', 'param_schedulers'):
        assert same(ends[0][key], ends[1][key]), key
    curves = [end['message_hub']['log_scalars']['train/loss'] for end in ends]
    assert same(*curves)
    assert len(curves[1][0]) == STEPS

    # exactly the files of the steps still to be done are read
    sampler = resumed.train_dataloader.batch_sampler
    sampler.sampler.set_epoch(1)
    sampler.start_step = SAVED - len(sampler)
    expected = [str(tuple(address)) for micro_batch in sampler for address in micro_batch]
    assert sorted((tmp_path / 'parts-2.reads').read_text().splitlines()) == sorted(expected)


@HOOKS.register_module()
class ValidationsHook(Hook):
    """Keeps the epochs whose validation ended, and breaks one off."""

    def __init__(self, broken: int = 0) -> None:
        self.broken = broken
        self.ended: list[int] = []

    def before_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        if runner.epoch == self.broken:
            raise KeyboardInterrupt

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        self.ended.append(runner.epoch)


@pytest.mark.parametrize('broken', [1, 2])
def test_a_validation_that_was_cut_off_is_repeated(tmp_path: Path, broken: int):
    more = 'val_dataloader, val_evaluator, val_cfg = test_dataloader, test_evaluator, dict(type="ValLoop")\n'
    config = write_config(tmp_path / 'classify.py', CLASSIFY + more, write_data(tmp_path / 'data'))

    def run(name: str, broken: int = 0, **options: Any) -> list[int]:
        checkpoint = dict(interval=1, save_best='accuracy/top1')
        hook = dict(type='ValidationsHook', broken=broken)
        options |= {'custom_hooks': [hook], 'default_hooks.checkpoint': dict(type='CheckpointHook', **checkpoint)}
        runner = build_runner(config, tmp_path / name, options)
        hook = next(hook for hook in runner.hooks if isinstance(hook, ValidationsHook))
        if broken:
            with pytest.raises(KeyboardInterrupt):
                runner.train()
        else:
            runner.train()
        return hook.ended

    assert run('whole') == [1, 2]
    assert run('parts', broken=broken) == [*range(1, broken)]
    assert run('parts', resume=True) == [*range(broken, 3)]
    assert run('parts', resume=True) == [2]  # its checkpoint was written before the validation
    best = [sorted(path.name for path in (tmp_path / name).glob('best*')) for name in ('whole', 'parts')]
    assert best[0] == best[1]
