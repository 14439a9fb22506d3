"""What goes wrong in long runs, made to go wrong: kills, full disks, preemption, losses that are no numbers."""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from types import ModuleType
from typing import Any

import mmengine
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.visualization import LocalVisBackend
from programs import ROOT, TOOLS, Program, environment, run_program, run_ranks
from streams import Streams
from tiny_run import CLASSIFY, PRETRAIN, build_runner, hook_of, write_config, write_data

from omnimae.apis import get_model
from omnimae.checkpoint import files, load_file, replacing
from omnimae.data.datasets import ImageDataset, VideoDataset
from omnimae.engine import claim_folder
from omnimae.engine.compat import find_latest_checkpoint, save_whole, wait_until_written
from omnimae.engine.optim import AutocastOptimWrapper
from omnimae.engine.preemption import PreemptionHook
from omnimae.engine.saving import CheckpointHook
from omnimae.registry import DATASETS, HOOKS
from omnimae.stopping import INTERRUPTED, PREEMPTED, SIGNALS, heard, saved
from omnimae.structures import Address, to_json


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp('data'))


@pytest.fixture
def config(data: Path, tmp_path: Path) -> Path:
    return write_config(tmp_path / 'classify.py', CLASSIFY, data)


# ---------------------------------------------------------------------------------------------------------------------
# Files


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path):
    path = tmp_path / 'last'
    path.write_text('old')
    with pytest.raises(UnicodeEncodeError), replacing(path) as file:
        file.write_text('ne\ud800', encoding='utf-8')
    assert [item.name for item in tmp_path.iterdir()] == ['last']
    assert path.read_text() == 'old'
    with replacing(path) as file:
        file.write_text('new')
    assert path.read_text() == 'new'


def test_a_full_disk_costs_the_new_checkpoint_alone(config: Path, tmp_path: Path):
    runner = build_runner(config, tmp_path / 'work', {'default_hooks.checkpoint.max_keep_ckpts': 1})
    runner.train()
    [old] = (tmp_path / 'work').glob('epoch_*.pth')
    before, soft_limit = old.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    runner.train_loop._epoch += 1
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, soft_limit[1]))  # the file may grow no larger
    try:
        with pytest.raises(
            OSError, match=r'epoch_4\.pth could not be written: .*is unchanged. Check that the disk has space'
        ):
            hook_of(runner, CheckpointHook)._save_checkpoint(runner)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, soft_limit)
        signal.signal(signal.SIGXFSZ, ignored)
    assert old.read_bytes() == before
    assert find_latest_checkpoint(tmp_path / 'work') == str(old)
    assert not [*(tmp_path / 'work').glob('*.tmp')]


def test_a_folder_that_is_gone_is_named(config: Path, tmp_path: Path):
    with (
        pytest.raises(OSError, match=r'gone/x\.pth could not be written: .*does not exist|No such file'),
        replacing(tmp_path / 'gone' / 'x.pth') as file,
    ):
        torch.save({}, file)


def test_the_best_checkpoint_is_removed_when_a_better_one_is_there(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    options = {
        'default_hooks.checkpoint.save_best': 'accuracy/top1',
        'default_hooks.checkpoint.rule': 'less',  # of any kind, but the second value is to be better
        'val_cfg': dict(type='ValLoop'),
    }
    text = config.read_text() + '\nval_dataloader, val_evaluator = test_dataloader, test_evaluator\n'
    config.write_text(text)
    runner = build_runner(config, tmp_path / 'work', options)
    runner.train()
    hook = hook_of(runner, CheckpointHook)
    best = Path(hook.best_ckpt_path)
    assert best.exists()

    def crash(*args, **kwargs):
        raise OSError('the node is gone')

    monkeypatch.setattr(runner, 'save_checkpoint', crash)
    with pytest.raises(OSError, match='the node is gone'):
        hook._save_best_checkpoint(runner, {'accuracy/top1': -1.0})
    assert best.exists()
    monkeypatch.undo()
    hook.best_ckpt_path = str(best)
    hook._save_best_checkpoint(runner, {'accuracy/top1': -2.0})
    assert Path(hook.best_ckpt_path).exists()


def test_the_latest_checkpoint_is_found_after_a_move_and_without_its_note(config: Path, tmp_path: Path):
    work = tmp_path / 'work'
    build_runner(config, work).train()
    assert find_latest_checkpoint(work) == str(work / 'epoch_2.pth')
    moved = work.rename(tmp_path / 'moved')
    assert find_latest_checkpoint(moved) == str(moved / 'epoch_2.pth')
    (moved / 'last_checkpoint').write_text('')
    os.utime(moved / 'epoch_1.pth', (0, 0))
    assert find_latest_checkpoint(moved) == str(moved / 'epoch_2.pth')
    (moved / 'last_checkpoint').unlink()
    assert find_latest_checkpoint(moved) == str(moved / 'epoch_2.pth')
    assert find_latest_checkpoint(tmp_path) is None


def test_a_checkpoint_by_time_does_not_wait_for_the_disk(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Long epochs: saved in every step here, on a disk that waits for the step, and stopped within an epoch."""
    torch.set_num_threads(1)
    to_disk, gone_on, events = files._to_disk, threading.Event(), []

    def slow(path: Path) -> None:
        gone_on.wait(60)
        events.append('written')
        to_disk(path)

    monkeypatch.setattr(files, '_to_disk', slow)
    save, options = CheckpointHook.after_train_iter, {'default_hooks.checkpoint.minutes': 0.0}

    def timed(*args, **more):
        gone_on.clear()
        save(*args, **more)
        events.append('gone on')
        gone_on.set()
        wait_until_written()

    monkeypatch.setattr(CheckpointHook, 'after_train_iter', timed)
    hook = dict(type='SignalHook', number=signal.SIGINT, step=2)  # twice: nothing more is saved
    with pytest.raises(KeyboardInterrupt):
        build_runner(config, tmp_path / 'work', options | {'custom_hooks': [hook, hook]}).train()
    monkeypatch.undo()
    assert [name for name, _ in groupby(events)] == ['gone on', 'written'] * 2  # in several files each
    work = tmp_path / 'work'
    assert torch.load(work / 'timed.pth', weights_only=True)['meta']['iter'] == 2
    assert find_latest_checkpoint(work) == str(work / 'timed.pth')
    resumed = build_runner(config, work, {'resume': True})
    resumed.train()
    assert sorted(path.name for path in work.glob('*.pth')) == ['epoch_1.pth', 'epoch_2.pth']
    whole = build_runner(config, tmp_path / 'whole')
    whole.train()
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], weight), name


@HOOKS.register_module()
class LateHook(Hook):
    """Lets a quarter of an hour pass in the second step."""

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: list) -> None:
        if runner.iter == 1:
            hook_of(runner, CheckpointHook)._saved_at -= 15 * 60


@pytest.mark.parametrize(('options', 'timed'), [({}, ['timed.pth']), ({'default_hooks.checkpoint.minutes': None}, [])])
def test_a_checkpoint_by_time_comes_when_no_other_does(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict, timed: list[str]
):
    runner = build_runner(config, tmp_path / 'work', options | {'custom_hooks': [dict(type='LateHook')]})
    saved, save = list[str](), Runner.save_checkpoint
    monkeypatch.setattr(Runner, 'save_checkpoint', lambda *args, **more: saved.append(args[2]) or save(*args, **more))
    runner.train()
    assert saved == [*timed, 'epoch_1.pth', 'epoch_2.pth']


def with_validation(config: Path) -> Path:
    text = config.read_text() + '\nval_dataloader, val_evaluator = test_dataloader, test_evaluator\n'
    config.write_text(text + 'val_cfg = dict(type="ValLoop")\n')
    return config


@pytest.mark.parametrize('is_copied', [True, False])
def test_a_run_resumed_elsewhere_removes_nothing_here(config: Path, tmp_path: Path, is_copied: bool):
    first, second = tmp_path / 'first', tmp_path / 'second'
    hook = 'default_hooks.checkpoint'
    options: dict = {f'{hook}.save_best': 'accuracy/top1', f'{hook}.max_keep_ckpts': 1}
    build_runner(with_validation(config), first, options | {'train_cfg.max_epochs': 1}).train()
    before = {path.name: path.read_bytes() for path in first.glob('*.pth')}
    assert [*sorted(before)] == ['best_accuracy_top1_epoch_1.pth', 'epoch_1.pth']
    if is_copied:
        shutil.copytree(first, second)
    else:
        options['load_from'] = str(first / 'epoch_1.pth')
    runner = build_runner(config, second, options | {'resume': True})
    hook = hook_of(runner, CheckpointHook)
    hook.rule_map = {'greater': lambda new, best: True}
    hook._init_rule(['greater'], ['accuracy/top1'])
    runner.train()
    assert {path.name: path.read_bytes() for path in first.glob('*.pth')} == before
    assert [path.name for path in second.glob('best_*.pth')] == ['best_accuracy_top1_epoch_2.pth']


def claim(folder: Path, *, overwrite: bool = False, **cfg: Any) -> None:
    claim_folder(Config(dict(work_dir=str(folder), **cfg)), overwrite=overwrite)


@pytest.mark.parametrize('name', ['epoch_3.pth', 'preempted.pth', 'best_x_epoch_1.pth', 'epoch_9_raw.safetensors'])
def test_a_folder_belongs_to_one_run(tmp_path: Path, name: str):
    folder = tmp_path / 'work'
    claim(folder)  # makes it
    for other in ('config.py', name, 'last_checkpoint', 'x.pth.0123abcd.tmp'):
        (folder / other).write_text(other)
    with pytest.raises(
        ValueError, match=rf'work has files of another run: {name}\. .*--resume.*--overwrite.*--work-dir'
    ):
        claim(folder)
    assert not (folder / 'x.pth.0123abcd.tmp').exists()  # what a kill left
    claim(folder, resume=True)
    claim(folder, resume=True, load_from=str(folder / name))
    claim(folder, resume=True, overwrite=True)  # as a job that is queued again
    assert (folder / name).exists()
    (tmp_path / 'other.pth').touch()
    with pytest.raises(ValueError, match='work has files of another run'):
        claim(folder, resume=True, load_from=str(tmp_path / 'other.pth'))
    claim(folder, overwrite=True)
    [aside] = folder.glob('replaced_*')
    assert sorted(path.name for path in aside.iterdir()) == sorted(['config.py', name, 'last_checkpoint'])
    assert {path.name for path in folder.iterdir()} == {'.lock', aside.name}


@pytest.mark.parametrize('is_noted', [True, False])
def test_checkpoints_elsewhere_belong_to_one_run_too(tmp_path: Path, is_noted: bool):
    """In the same work directory a second run wrote over them; so did one in a folder of the same name."""
    out, work = tmp_path / 'disk', tmp_path / 'a' / 'work'
    hooks = dict(default_hooks=dict(checkpoint=dict(out_dir=str(out))))
    claim(work, **hooks)
    (out / 'work' / 'epoch_1.pth').touch()
    if is_noted:
        (work / 'last_checkpoint').write_text(str(out / 'work' / 'epoch_1.pth'))
        with pytest.raises(ValueError, match=r'a/work has files of another run: .*disk/work/epoch_1\.pth\.'):
            claim(work)
    with pytest.raises(ValueError, match=r'work has files of another run: .*epoch_1\.pth\.'):
        claim(tmp_path / 'b' / 'work' if not is_noted else work, **hooks)
    claim(work, resume=True, **hooks)
    claim(work, resume=True, load_from=str(out / 'work' / 'epoch_1.pth'), **hooks)
    claim(work, overwrite=True, **hooks)
    assert [path.name for path in (out / 'work').glob('replaced_*/*')] == ['epoch_1.pth']
    claim(work, **hooks)


@pytest.mark.parametrize('place', ['/proc/work', '/dev/full/work'])
def test_a_folder_that_cannot_be_written_is_named(place: str):
    with pytest.raises(ValueError, match=rf'^{place} cannot be written \(.*\)\. Free some space, or give ano'):
        claim(Path(place))


def hold(folder: Path) -> None:
    claim(folder)
    if os.fork() == 0:  # as a loader's worker
        time.sleep(60)
    print('claimed', flush=True)
    time.sleep(60)


def test_a_folder_in_use_names_who_uses_it(tmp_path: Path):
    process = Program(hold, tmp_path / 'work', output=tmp_path)
    wait_for(lambda: process.said('stdout'), process)
    who = f'process {process.pid} on {socket.gethostname()} since 20'
    with pytest.raises(ValueError, match=rf'is in use by another run: {who}'):
        claim(tmp_path / 'work', resume=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    claim(tmp_path / 'work', resume=True)  # a worker that outlives the run does not hold it


def test_what_is_to_be_resumed_must_be_there(config: Path, tmp_path: Path):
    with pytest.raises(ValueError, match=r'--resume .*gone\.pth: no such file'):
        claim(tmp_path / 'work', resume=True, load_from=str(tmp_path / 'gone.pth'))
    options = ['--work-dir', tmp_path / 'work', '--resume', '--cfg-options', 'train_cfg.max_epochs=1']
    options += ['default_hooks.logger.interval=3']
    result = run_program(TOOLS / 'train.py', config, *options, output=tmp_path)
    lines = [line for line in (result.stdout + result.stderr).splitlines() if line]
    assert re.search(r'WARNING - --resume: no checkpoint in .*work, so the training starts from its beg', lines[0])
    [log] = (tmp_path / 'work').glob('*/*.log')
    text = log.read_text()
    assert 'WARNING - --resume: no checkpoint in' in text
    assert 'latest checkpoint None' not in text
    # the screen has the progress, the file has all
    progress = r' - Step 1 of 3, loss \d\.\d{4}\. A line every 3 steps follows\.$'
    assert re.search(progress, '\n'.join(lines), re.MULTILINE)
    assert len(lines) < 15
    for message in ('System environment:', 'Config:', 'Hooks will be executed', 'Optimizer groups:'):
        assert not any(message in line for line in lines)
        assert message in text


def test_temporary_names_are_nobody_elses(tmp_path: Path):
    with replacing(tmp_path / 'a') as one, replacing(tmp_path / 'a') as other:
        assert one != other
        one.write_text('one')
        other.write_text('other')
    assert (tmp_path / 'a').read_text() == 'one'


def test_tests_and_features_leave_the_config_of_the_training(config: Path, tmp_path: Path, monkeypatch):
    work = tmp_path / 'work'
    build_runner(config, work, {'train_cfg.max_epochs': 1}).train()
    before = (work / 'classify.py').read_text()
    weights, batch = work / 'epoch_1_raw.safetensors', 'test_dataloader.batch_size=5'
    call_tool(monkeypatch, 'test', config, weights, '--work-dir', work, '--cfg-options', batch)
    out = ['--out', tmp_path / 'f.npz']
    time.sleep(1.1)  # MMEngine names a log by the second
    call_tool(monkeypatch, 'extract_features', config, weights, *out, '--work-dir', work, '--cfg-options', batch)
    assert (work / 'classify.py').read_text() == before
    assert len([*work.glob('*/classify.py')]) == 2


def test_another_global_batch_is_no_resume(config: Path, tmp_path: Path):
    build_runner(config, tmp_path / 'work').train()
    options = {'resume': True, 'train_dataloader.batch_sampler.global_batch_size': 4, 'train_dataloader.batch_size': 4}
    with pytest.raises(
        ValueError, match=r'epoch_2\.pth is of a run with 3 steps an epoch, and this one has 5: another'
    ):
        build_runner(config, tmp_path / 'work', options).train()


class Malice:
    """Makes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return Path.touch, (self.target,)


def call_tool(monkeypatch: pytest.MonkeyPatch, name: str, *words: str | Path) -> None:
    """``python tools/NAME.py WORDS`` in this process."""
    monkeypatch.setattr(sys, 'argv', [name, *map(str, words)])
    load_tool(name).main()


def load_tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, TOOLS / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# (config, checkpoint, work directory, monkeypatch) -> None
ENTRANCES = {
    'load_from': lambda config, file, work, _: build_runner(config, work, {'load_from': str(file)}).train(),
    'init_cfg': lambda config, file, work, _: build_runner(
        config, work, {'model.init_cfg': dict(type='Checkpoint', checkpoint=str(file))}
    ).train(),
    'resume': lambda config, file, work, m: call_tool(m, 'train', config, '--work-dir', work, '--resume', file),
    'test': lambda config, file, work, m: call_tool(m, 'test', config, file, '--work-dir', work),
    'convert': lambda config, file, work, m: call_tool(m, 'convert_checkpoint', file, work.with_suffix('.safetensors')),
    'get_model': lambda config, file, work, m: get_model(config, file),
}


@pytest.mark.parametrize('entrance', ENTRANCES)
def test_no_entrance_runs_what_is_in_a_checkpoint(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entrance: str
):
    evil = tmp_path / 'evil.pth'
    torch.save({'state_dict': {'x': torch.zeros(1)}, 'meta': {}, 'payload': Malice(tmp_path / 'it ran')}, evil)
    with pytest.raises((ValueError, SystemExit), match=r'evil\.pth:? (is )?refused'):
        ENTRANCES[entrance](config, evil, tmp_path / 'work', monkeypatch)
    assert not (tmp_path / 'it ran').exists()
    pickle.loads(pickle.dumps(Malice(tmp_path / 'it ran')))
    assert (tmp_path / 'it ran').exists()  # it would have


# ---------------------------------------------------------------------------------------------------------------------
# Numbers


def poison(runner: Runner, steps: set[int], monkeypatch: pytest.MonkeyPatch, what: str = 'loss') -> None:
    """Make the loss infinite, or its gradient, in these optimizer steps, counted from 0."""
    model = runner.model
    loss = model.loss

    def poisoned(*args, **kwargs):
        losses = loss(*args, **kwargs)
        if runner.iter not in steps:
            return losses
        bias = model.backbone.blocks[0].mlp.fc1.bias
        nothing = (bias - bias.detach()).square().sum().sqrt()  # 0, with an infinite gradient
        return losses | {'loss': losses['loss'] / 0 if what == 'loss' else losses['loss'] + nothing}

    monkeypatch.setattr(model, 'loss', poisoned)


@pytest.mark.parametrize(
    ('what', 'note'), [('loss', r'loss inf: '), ('gradient', r'loss \d\.\d+, gradient not finite: ')]
)
def test_a_step_without_a_number_is_left_out_and_noted(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, note: str
):
    runner = build_runner(config, tmp_path / 'work', {'default_hooks.logger.interval': 1})
    poison(runner, {2, 3}, monkeypatch, what)
    weights, step = [], AutocastOptimWrapper.step

    def noted(self, **kwargs):
        step(self, **kwargs)
        weights.append([parameter.detach().clone() for group in self.param_groups for parameter in group['params']])

    monkeypatch.setattr(AutocastOptimWrapper, 'step', noted)
    runner.train()
    same = [all(map(torch.equal, a, b)) for a, b in zip(weights, weights[1:], strict=False)]
    assert same == [False, True, True, False, False]
    assert runner.message_hub.get_info('skipped_steps') == 2
    lines = (tmp_path / 'work' / 'skipped_steps.txt').read_text().splitlines()
    assert len(lines) == 2
    assert re.match(r'epoch 1, step 3 \(iteration 3\)\t' + note, lines[0])
    assert '.png' in lines[0]
    assert all(weight.isfinite().all() for weight in runner.model.state_dict().values())
    # no line of the log is spoiled, and what reads scalars.json finds JSON
    [log] = (tmp_path / 'work').glob('*/*.log')
    lines = re.findall(r'Epoch\(train\).*', log.read_text())
    assert len(lines) == 6
    assert not any(re.search(r'\b(nan|inf)\b', line) for line in lines)
    [scalars] = (tmp_path / 'work').glob('*/vis_data/scalars.json')
    assert all(json.loads(line, parse_constant=pytest.fail)['loss'] for line in scalars.read_text().splitlines())


def test_whatever_is_written_as_json_is_json(tmp_path: Path):
    nan, inf = float('nan'), float('inf')
    value = dict(a=nan, b=[inf, 1.5], c=np.float32(nan), d=torch.tensor([1.0, -inf]), e=dict(f=(np.arange(2), None)))
    expected = dict(a=None, b=[None, 1.5], c=None, d=[1.0, None], e=dict(f=[[0, 1], None]))
    mmengine.dump(value, tmp_path / 'a.json')
    LocalVisBackend(str(tmp_path)).add_scalars(value)
    LocalVisBackend(str(tmp_path), scalar_save_file='b.json').add_scalar('a', nan)
    for text in (to_json(value), mmengine.dump(value, file_format='json'), (tmp_path / 'a.json').read_text()):
        assert json.loads(text, parse_constant=pytest.fail) == expected
    written = json.loads((tmp_path / 'scalars.json').read_text(), parse_constant=pytest.fail)
    assert written == expected | {'step': 0}
    assert json.loads((tmp_path / 'b.json').read_text(), parse_constant=pytest.fail) == dict(a=None, step=0)


def test_too_many_of_them_in_a_row_stop_the_run(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    runner = build_runner(config, tmp_path / 'work', {'train_cfg.max_skipped': 1})
    poison(runner, {1, 3, 4}, monkeypatch)
    message = r'(?s)not finite at epoch 2, step 2 .*, 2 steps in a row; train_cfg.max_skipped=1. .*epoch_1\.pth. Lower'
    with pytest.raises(FloatingPointError, match=message):
        runner.train()


def test_weights_that_are_no_numbers_are_not_saved(config: Path, tmp_path: Path):
    runner = build_runner(config, tmp_path / 'work')
    runner.train()
    before = {path: path.read_bytes() for path in (tmp_path / 'work').glob('*.pth')}
    runner.model.backbone.blocks[0].mlp.fc1.bias.data[0] = float('nan')
    message = (
        r'^backbone\.blocks\.0\.mlp\.fc1\.bias is not finite, so no checkpoint is written over the good ones in .*work'
    )
    with pytest.raises(FloatingPointError, match=message):
        hook_of(runner, CheckpointHook)._save_checkpoint(runner)
    assert before == {path: path.read_bytes() for path in (tmp_path / 'work').glob('*.pth')}


def test_wrappers_that_step_whatever_the_loss_are_refused(config: Path, tmp_path: Path):
    with pytest.raises(ValueError, match=r'optim_wrapper.type is OptimWrapper, .* Use AutocastOptimWrapper'):
        build_runner(config, tmp_path / 'work', {'optim_wrapper.type': 'OptimWrapper'}).train()


# ---------------------------------------------------------------------------------------------------------------------
# Processes


@DATASETS.register_module()
class FatalImages(ImageDataset):
    """One picture ends the process that reads it, like a crash in a codec or the kernel when memory is short."""

    def read(self, path: str, rng: np.random.Generator | None) -> list[np.ndarray]:
        if path.endswith(os.environ['FATAL']):
            while not Path(os.environ['FATAL_AFTER']).exists():
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(path, rng)


@HOOKS.register_module()
class LongIteration(Hook):
    """Waits in its first iteration. PyTorch raises the error of a dead worker wherever the main process is."""

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        begun = Path(os.environ['FATAL_AFTER'])
        if not begun.exists():
            begun.touch()
            time.sleep(60)

    after_test_iter = after_train_iter


PLACES = pytest.mark.parametrize('iterating', [True, False], ids=['in an iteration', 'in the loader'])


def dying(file: str, iterating: bool, monkeypatch: pytest.MonkeyPatch, folder: Path) -> dict[str, Any]:
    """Options with which the main process is in an iteration, or in the loader, when `FatalImages` ends a worker."""
    monkeypatch.setenv('FATAL', file)
    monkeypatch.setenv('FATAL_AFTER', str(folder / 'begun' if iterating else folder))
    return {'custom_hooks': [dict(type='LongIteration')] if iterating else []}


@PLACES
def test_a_worker_that_dies_names_its_file_and_the_run_goes_on_without_it(iterating, config, tmp_path, monkeypatch):
    options = dying('/7.png', iterating, monkeypatch, tmp_path)
    source = 'train_dataloader.dataset.sources.pictures'
    options |= {'train_dataloader.num_workers': 2, 'train_dataloader.prefetch_factor': 8}
    options[f'{source}.type'] = 'FatalImages'
    begin = time.monotonic()
    listed = tmp_path / 'work' / 'broken_files.txt'
    message = rf'(?s)A loader worker died \(.*\) while it read .*/b/7\.png\. .*NAME\.skip={listed}'
    with pytest.raises(RuntimeError, match=message):
        build_runner(config, tmp_path / 'work', options).train()
    assert time.monotonic() - begin < 60
    assert listed.read_text().endswith('/pictures/b/7.png\ta loader worker died reading it\n')

    runner = build_runner(config, tmp_path / 'work', {**options, 'resume': True, f'{source}.skip': str(listed)})
    runner.train()
    assert runner.iter == 6
    assert [*runner.message_hub.get_info('broken_files')] == [listed.read_text().split('\t')[0]]


def resident_megabytes() -> float:
    return int(Path('/proc/self/statm').read_text().split()[1]) * resource.getpagesize() / 2**20


@pytest.mark.parametrize('count', [600, pytest.param(5000, marks=pytest.mark.slow)])
def test_opening_files_leaves_nothing_behind_in_memory(data: Path, count: int):
    crop = [dict(type='RandomResizedCrop', size=32)]
    sources = [
        VideoDataset(root=str(data / 'movies'), num_frames=8, transforms=crop),
        ImageDataset(root=str(data / 'pictures'), transforms=crop),
    ]
    for index in range(count):
        for source in sources:
            source[Address(0, index % len(source), index)]
        if index == 200:
            before = resident_megabytes()
    assert resident_megabytes() - before < 20


def test_a_list_to_skip_must_be_there(config: Path, tmp_path: Path):
    options = {'train_dataloader.dataset.sources.pictures.skip': 'nowhere.txt'}
    with pytest.raises(ValueError, match=r"Source 'pictures': skip='nowhere.txt' is no file. Give one with a path"):
        build_runner(config, tmp_path / 'work', options).train()


@HOOKS.register_module()
class SignalHook(Hook):
    """Sends this process a signal in a step, as somebody else would."""

    def __init__(self, number: int, step: int) -> None:
        self.number, self.step = number, step

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: list) -> None:
        if runner.iter == self.step:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1])
def test_whatever_asks_a_run_to_stop_saves(
    config: Path, tmp_path: Path, number: signal.Signals, capfd: pytest.CaptureFixture
):
    before = [signal.getsignal(number) for number in (*SIGNALS, signal.SIGALRM)]
    options = {'custom_hooks': [dict(type='SignalHook', number=number, step=1)]}
    with pytest.raises(SystemExit) as end:
        build_runner(config, tmp_path / 'work', options).train()
    assert end.value.code == (INTERRUPTED if number == signal.SIGINT else PREEMPTED) == (130 if number == 2 else 75)
    assert [signal.getsignal(number) for number in (*SIGNALS, signal.SIGALRM)] == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    assert torch.load(tmp_path / 'work' / 'preempted.pth', weights_only=True)['meta']['iter'] == 2
    output, error = capfd.readouterr()
    assert f'{number.name}: saving, after this step at the latest.' in error  # at once, by the handler
    why = 'Stopped' if number == signal.SIGINT else 'Preempted'
    path = tmp_path / 'work' / 'preempted.pth'
    said = f'{why}: saved {path} after 2 steps, the exit code is {end.value.code}. Go on with the same command and'
    assert f'{said} --resume.' in output + error


def test_a_second_ctrl_c_does_not_wait_for_the_step(config: Path, tmp_path: Path):
    hook = dict(type='SignalHook', number=signal.SIGINT, step=1)
    with pytest.raises(KeyboardInterrupt):
        build_runner(config, tmp_path / 'work', {'custom_hooks': [hook, hook]}).train()
    assert not (tmp_path / 'work' / 'preempted.pth').exists()
    assert not saved.is_set()
    build_runner(config, tmp_path / 'work', {'train_cfg.max_epochs': 1}).train()
    assert saved.is_set()
    with pytest.raises(KeyboardInterrupt):
        build_runner(config, tmp_path / 'work', {'custom_hooks': [hook | {'step': 4}] * 2, 'resume': True}).train()
    assert saved.is_set()  # by the earlier start


def test_the_thread_of_listen_alone_answers_a_second_ctrl_c(monkeypatch: pytest.MonkeyPatch):
    """A KeyboardInterrupt would be a traceback beside its line."""
    hook = PreemptionHook()
    hook.asked, hook._is_stopping = INTERRUPTED, True
    with pytest.raises(KeyboardInterrupt):
        hook._ask(signal.SIGINT, None)
    listening = threading.Event()
    listening.set()
    monkeypatch.setattr('omnimae.engine.preemption.watching', listening)
    hook._ask(signal.SIGINT, None)


SLOW_IMPORT = """
import time
from pathlib import Path
Path('ready').touch()
try:
    time.sleep(60)
except KeyboardInterrupt:
    raise ImportError('half a module')
"""
TOOL = """
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from omnimae.stopping import start_tool

if __name__ == '__main__':
    start_tool('Nothing is kept.')

def work(*_):
    Path('ready').touch()
    time.sleep(60)

class Numbers(list):
    __getitem__ = work

"""
LOADER = """
from torch.utils.data import DataLoader
next(iter(DataLoader(Numbers('ab'), num_workers=2)))
"""
POOL = """
with ProcessPoolExecutor(2) as pool:
    list(pool.map(work, range(9)))
"""
CLEANS = """
try:
    work(0)
finally:
    time.sleep(0.5)
    Path('cleaned').touch()
"""
CLEANS_LONG = CLEANS.replace('0.5', '60')


@pytest.mark.parametrize('does', ['import slow_import', LOADER, POOL, CLEANS, CLEANS_LONG])
def test_ctrl_c_ends_any_tool_with_a_line(tmp_path: Path, does: str):
    (tmp_path / 'slow_import.py').write_text(SLOW_IMPORT)
    (tmp_path / 'tool.py').write_text(TOOL + does)
    command, group = [sys.executable, 'tool.py'], dict(start_new_session=True, cwd=tmp_path, env=environment())
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **group)
    while not (tmp_path / 'ready').exists():
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(0.2)
    begin = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to the workers, too
    if does == CLEANS_LONG:
        time.sleep(0.2)
        os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=50)[1].splitlines()
    assert said[1:] == ['tool.py: stopped by Ctrl-C. Nothing is kept.'], said
    assert process.returncode == INTERRUPTED
    assert (tmp_path / 'cleaned').exists() == (does == CLEANS)
    assert time.monotonic() - begin < 20
    assert not in_group(process.pid)


def in_group(number: int) -> list[str]:
    """Living processes of a group."""
    stats = [path.read_text().rpartition(')')[2].split() for path in Path('/proc').glob('[0-9]*/stat')]
    return [stat[0] for stat in stats if int(stat[2]) == number and stat[0] != 'Z']


def test_ctrl_c_leaves_no_part_of_a_table(config: Path, tmp_path: Path):
    """In the middle of `predict`, while its workers wait for a file."""
    weights, picture, out = tmp_path / 'weights.safetensors', tmp_path / 'picture.png', tmp_path / 'out'
    files.save_file(get_model(config).state_dict(), weights, {})
    os.mkfifo(picture)
    words = [config, weights, picture, '--num-workers', '1', '--out', out / 'a.csv', '--device', 'cpu']
    command, group = [sys.executable, TOOLS / 'predict.py', *words], dict(start_new_session=True, env=environment())
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **group)
    writing = None
    while writing is None:
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
        with suppress(OSError):
            writing = os.open(picture, os.O_WRONLY | os.O_NONBLOCK)  # there is a reader
    assert [path.suffix for path in out.iterdir()] == ['.tmp']
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=50)[1]
    os.close(writing)
    assert said.splitlines()[-1] == 'predict.py: stopped by Ctrl-C. No table was written. The same command starts anew.'
    assert 'Traceback' not in said
    assert process.returncode == INTERRUPTED
    assert not [*out.iterdir()]


@pytest.mark.parametrize(
    ('rank', 'is_saved', 'advice'),
    [
        ('0', False, 'There is no checkpoint to go on from: the same command starts anew.'),
        ('0', True, 'Go on from the last checkpoint with omnimae train run/config.py --resume.'),
        ('1', False, None),  # the terminal is gone
    ],
)
def test_ctrl_c_is_answered_while_a_step_computes(rank: str, is_saved: bool, advice: str | None):
    """Handlers of Python wait for the end of a call in C. The thread of `listen` does not."""
    program = f"""
import ctypes
from omnimae import stopping
stopping.listen()
stopping.saving.set()
if {is_saved}:
    stopping.saved.set()
with stopping.named_command('omnimae train run/config.py'):
    print('ready', flush=True)
    while True:
        ctypes.CDLL(None).sleep(100)
"""
    process = subprocess.Popen(
        [sys.executable, '-c', program], env=environment(RANK=rank), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    lines = [process.stderr.readline().decode() for _ in range(2 if rank == '0' else 0)]
    assert lines[1:] == [
        'SIGINT: saving, after this step at the latest. Once more stops at once, and loses what is not saved.\n'
    ] * (rank == '0')
    if advice is None:
        process.stderr.close()
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == INTERRUPTED
    if advice is not None:
        last = f'SIGINT a second time, so nothing more is saved: the exit code is 130. {advice}\n'
        assert process.stderr.read().decode() == last


@DATASETS.register_module()
class SlowImages(ImageDataset):
    """One picture is on a storage that does not answer, until ``answers`` is there, and somebody sees that."""

    answers: Path
    process = os.getpid()

    def read(self, path: str, rng: np.random.Generator | None) -> list[np.ndarray]:
        if path.endswith('/5.png') and not self.answers.exists():
            os.kill(self.process, signal.SIGUSR1)
        while path.endswith('/5.png') and not self.answers.exists():
            time.sleep(0.05)
        return super().read(path, rng)


@pytest.mark.parametrize(('num_workers', 'on_gpu'), [(0, False), (2, False), (0, True)])
def test_a_run_that_waits_for_data_saves_at_once(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_workers: int, on_gpu: bool
):
    torch.set_num_threads(1)
    if on_gpu:
        Streams(monkeypatch)  # it waits for the next step before this one is over
    source = 'train_dataloader.dataset.sources.pictures'
    options = {f'{source}.type': 'SlowImages', 'train_dataloader.num_workers': num_workers}
    monkeypatch.setattr(SlowImages, 'answers', tmp_path / 'answers', raising=False)
    begin = time.monotonic()
    stopped = build_runner(config, tmp_path / 'work', options)
    with pytest.raises(SystemExit) as end:
        stopped.train()
    assert end.value.code == PREEMPTED
    assert time.monotonic() - begin < 60  # it would wait for ever
    done = torch.load(tmp_path / 'work' / 'preempted.pth', weights_only=True)['meta']['iter']
    assert done == 2 or (num_workers and done < 2)  # it is of the third step; workers read before it is needed

    (tmp_path / 'answers').touch()
    resumed = build_runner(config, tmp_path / 'work', options | {'resume': True})
    resumed.train()
    whole = build_runner(config, tmp_path / 'whole', options)
    whole.train()
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], weight), name


@pytest.mark.parametrize(
    ('tool', 'number', 'code'), [('train', signal.SIGUSR1, 75), ('train', signal.SIGINT, 130), ('launch', 15, 75)]
)
def test_before_training_there_is_nothing_to_save(tmp_path: Path, tool: str, number: int, code: int):
    """A chain of jobs goes on whenever the signal comes: here while the imports run."""
    command = [sys.executable, TOOLS / f'{tool}.py', 'config.py']
    process = subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, text=True)
    status, wanted = Path(f'/proc/{process.pid}/status'), sum(1 << each - 1 for each in heard())
    while int(re.search(r'SigCgt:\s*(\w+)', status.read_text())[1], 16) & wanted != wanted:
        time.sleep(0.005)
    process.send_signal(number)
    message = process.communicate(timeout=60)[1]
    assert process.returncode == code
    said = f'{signal.Signals(number).name} before there was anything new to save: the exit code is {code}. '
    assert f'{said}The same command starts again.\n' in message


def test_nohup_stays_in_force(monkeypatch: pytest.MonkeyPatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    assert heard() == [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1]
    signal.signal(signal.SIGHUP, before)
    assert heard() == [*SIGNALS]


CLUSTER = """
import os
import signal
from mmengine.hooks import Hook
from omnimae.registry import HOOKS


@HOOKS.register_module()
class ClusterHook(Hook):
    def before_train_iter(self, runner, batch_idx, data_batch):
        if runner.iter == 7:
            os.killpg(0, signal.SIGTERM)
"""


def test_a_preempted_run_goes_on_as_if_nothing_had_happened(data: Path, tmp_path: Path):
    """SIGTERM to every process of the run, loader workers too, as clusters send it."""
    (tmp_path / 'cluster.py').write_text(CLUSTER)
    config = write_config(tmp_path / 'pretrain.py', PRETRAIN, data, "\ntrain_cfg['max_epochs'] = 3\n")
    more = "custom_imports = dict(imports=['cluster'])\ncustom_hooks = [dict(type='ClusterHook')]\n"
    (tmp_path / 'preempted.py').write_text(config.read_text() + more)
    command = [TOOLS / 'train.py', tmp_path / 'preempted.py', '--work-dir', tmp_path / 'work']
    options = ['--cfg-options', 'train_dataloader.num_workers=2']
    where = dict(output=tmp_path, env=environment(PYTHONPATH=f'{tmp_path}:{ROOT}'))
    result = run_program(*command, *options, **where)
    assert result.returncode == PREEMPTED, result.stderr[-2000:]
    work = tmp_path / 'work'
    assert find_latest_checkpoint(work) == str(work / 'preempted.pth')
    assert torch.load(work / 'preempted.pth', weights_only=True)['meta']['iter'] == 8

    result = run_program(*command, '--resume', *options, **where)
    assert result.returncode == 0, result.stderr[-2000:]
    whole = build_runner(config, tmp_path / 'whole')
    whole.train()
    ours = load_file(work / 'epoch_3_raw.safetensors')[0]
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(ours[name], weight), name


PROBE = """
import os
import signal
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from omnimae.registry import HOOKS


@HOOKS.register_module()
class FaultHook(Hook):
    priority = 'HIGH'

    def before_train_iter(self, runner, batch_idx, data_batch):
        model = runner.model.module
        if get_rank() == 1 and runner.iter == 2:
            loss = type(model).loss
            model.loss = lambda *args: {key: value * float('nan') for key, value in loss(model, *args).items()}
        elif 'loss' in vars(model):
            del model.loss

    def after_train_iter(self, runner, batch_idx, data_batch, outputs=None):
        if get_rank() == 1 and runner.iter == 3:  # after the values of this step went round
            os.kill(os.getpid(), signal.SIGUSR1)

"""


def test_a_training_that_ended_leaves_signals_as_they_were(config: Path, tmp_path: Path):
    before = signal.getsignal(signal.SIGTERM)
    build_runner(config, tmp_path / 'work').train()
    assert signal.getsignal(signal.SIGTERM) is before
    thread = threading.Thread(target=build_runner(config, tmp_path / 'thread').train)
    thread.start()
    thread.join()
    assert (tmp_path / 'thread' / 'epoch_2.pth').exists()


def test_ranks_leave_out_a_step_and_are_preempted_together(data: Path, tmp_path: Path):
    (tmp_path / 'probe.py').write_text(PROBE)
    more = "\ncustom_imports = dict(imports=['probe'])\ncustom_hooks = [dict(type='FaultHook')]\n"
    config = write_config(tmp_path / 'classify.py', CLASSIFY, data, more)
    options = ['--work-dir', tmp_path / 'work', '--cfg-options', 'train_dataloader.batch_size=4']
    words = [TOOLS / 'train.py', config, '--launcher', 'pytorch', *options]
    ranks = run_ranks(*words, output=tmp_path, env=environment(PYTHONPATH=f'{tmp_path}:{ROOT}'))
    assert [rank.returncode for rank in ranks] == [PREEMPTED] * 2, ranks[0].stderr[-3000:]
    [line] = (tmp_path / 'work' / 'skipped_steps.txt').read_text().splitlines()
    assert line.startswith('epoch 1, step 3 (iteration 3)\tloss nan: ')
    saved = torch.load(tmp_path / 'work' / 'preempted.pth', weights_only=True)
    assert (saved['meta']['epoch'], saved['meta']['iter']) == (1, 5)
    assert all(weight.isfinite().all() for weight in saved['state_dict'].values())

    # on one rank to the end
    config = write_config(tmp_path / 'one.py', CLASSIFY, data)
    one = build_runner(config, tmp_path / 'work', {'resume': True})
    one.train()
    assert (one.epoch, one.iter) == (2, 6)


RANK = """
import os, signal, sys, time
from pathlib import Path

def save(number, frame):
    Path(sys.argv[1], 'asked').touch()
    time.sleep(float(sys.argv[2]))
    Path(sys.argv[1], 'saved').touch()
    sys.exit(130 if number == signal.SIGINT else 75)

for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, save)
Path(sys.argv[1], 'ready').write_text(str(os.getpid()))
time.sleep(120)
"""


def launch_rank(folder: Path, seconds: float, **env: str) -> Program:
    """A rank that takes so many seconds to save, and is ready for a signal."""
    (folder / 'rank.py').write_text(RANK)
    words = [TOOLS / 'launch.py', '--standalone', '--nproc-per-node', '1', folder / 'rank.py', folder, seconds]
    process, ready = Program(*words, output=folder, env=environment(**env)), folder / 'ready'
    wait_for(lambda: ready.exists() and ready.read_text(), process)
    return process


def wait_for(what: Callable[[], object], process: Program) -> None:
    while (code := process.poll()) is None and not what():
        time.sleep(0.02)
    assert code is None or what()


def test_the_launcher_hands_on_signals_and_exits_like_its_ranks(tmp_path: Path):
    process = launch_rank(tmp_path, 0.5)
    process.send_signal(signal.SIGUSR1)
    wait_for((tmp_path / 'asked').exists, process)
    process.send_signal(signal.SIGTERM)  # clusters send one after the other
    assert process.wait(timeout=60) == PREEMPTED
    assert (tmp_path / 'saved').exists()


def test_a_second_ctrl_c_leaves_no_rank(tmp_path: Path):
    process = launch_rank(tmp_path, 100)
    process.send_signal(signal.SIGINT)
    wait_for((tmp_path / 'asked').exists, process)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == INTERRUPTED
    assert not Path('/proc', (tmp_path / 'ready').read_text()).exists()
    assert 'SIGINT a second time, so the ranks were killed: the exit code is 130. ' in process.said('stderr')


@pytest.mark.parametrize(
    ('codes', 'code'), [([75, 75], 75), ([0, -15, 75], 75), ([-2, 130], 130), ([75, 1], 1), ([-9], 1), ([0, -10], 75)]
)
def test_the_launcher_tells_signals_from_errors(codes: list[int], code: int):
    assert load_tool('launch').exit_code(codes) == code


def test_the_launcher_ends_ranks_after_as_many_seconds_as_it_is_told(tmp_path: Path):
    """A rank that takes 100 seconds to save has one; torchrun's own limit is 30."""
    process = launch_rank(tmp_path, 100, TORCH_ELASTIC_SHUTDOWN_TIMEOUT='1')
    begin = time.monotonic()
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=60)
    assert time.monotonic() - begin < 25
    assert not (tmp_path / 'saved').exists()


def test_the_launcher_leaves_two_minutes_unless_it_is_told(monkeypatch: pytest.MonkeyPatch):
    launch = load_tool('launch')
    monkeypatch.delenv('TORCH_ELASTIC_SHUTDOWN_TIMEOUT', raising=False)
    for kind, names in launch.PATCHES.items():
        for name in names:
            monkeypatch.setattr(kind, name, getattr(kind, name))
    monkeypatch.setattr(launch.run, 'main', lambda: None)
    monkeypatch.setattr(sys, 'argv', ['launch.py', 'train.py'])
    launch.main()
    assert os.environ['TORCH_ELASTIC_SHUTDOWN_TIMEOUT'] == '120'
    assert launch.PContext.close.__defaults__ == (None, 120)
    signals = ['--signals-to-handle', 'SIGINT,SIGHUP,SIGTERM,SIGUSR1']
    assert sys.argv[1:] == [*signals, '--standalone', '--max-restarts', '0', 'train.py']
    monkeypatch.delenv('TORCH_ELASTIC_SHUTDOWN_TIMEOUT')


def test_a_checkpoint_has_no_checksums_that_nobody_reads(tmp_path: Path):
    before = torch.serialization.get_crc32_options()
    save_whole({'weight': torch.arange(3.0)}, str(tmp_path / 'a.pth'))
    torch.save({'weight': torch.arange(3.0)}, tmp_path / 'b.pth')
    assert torch.serialization.get_crc32_options() == before
    sums = [[item.CRC for item in zipfile.ZipFile(tmp_path / f'{name}.pth').infolist()] for name in 'ab']
    assert set(sums[0]) == {0}
    assert 0 not in sums[1]
    assert load_file(tmp_path / 'a.pth')[0]['weight'].tolist() == [0, 1, 2]


@pytest.mark.slow
def test_killed_runs_lose_nothing(demo_root: Path, tmp_path: Path):
    """The short form of benchmarks/kill_and_resume.py."""
    command = [sys.executable, 'benchmarks/kill_and_resume.py', '--out', str(tmp_path), '--moments', '2']
    result = subprocess.run(
        [*command, '--data', str(demo_root)], cwd=ROOT, env=environment(), capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr[-2000:]
    rows = json.loads((tmp_path / 'results.json').read_text())['rows']
    assert len(rows) == 2
    assert any(row['killed'] for row in rows)  # a busy machine may have become faster
