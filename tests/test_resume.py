"""A run that stops inside an epoch and is resumed is the run that never stopped, bit for bit."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import EMAHook, Hook
from mmengine.runner import Runner
from streams import Streams
from tiny_run import CLASSIFY, PRETRAIN, build_runner, losses_of, write_config, write_data

from omnimae.data.datasets import ImageDataset, VideoDataset
from omnimae.engine import resuming
from omnimae.engine.compat import wait_until_written
from omnimae.engine.optim import warmup_cosine
from omnimae.engine.resuming import Change, compare, settings, table
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
class StopHook(Hook):
    """Breaks off after a number of steps, when everything else has happened."""

    priority = 'LOWEST'

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any, outputs: dict | None = None) -> None:
        if runner.iter + 1 == self.steps:
            raise KeyboardInterrupt


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


# a step draws the part of the hidden tokens that it predicts
CROSS = {'model.head.type': 'CrossMAEHead', 'model.head.layers': [0, 1, 2], 'model.decode_ratio': 0.5}


@pytest.mark.parametrize(
    ('num_workers', 'batch_size', 'on_gpu', 'decoder'),
    [(0, 4, False, {}), (2, dict(image=4, video=2), False, CROSS), (2, 4, True, {})],
)
def test_stop_in_an_epoch_and_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_workers, batch_size, on_gpu, decoder
):
    torch.set_num_threads(1)
    if on_gpu:
        Streams(monkeypatch)  # a step is read while the one before is trained
    data = write_data(tmp_path / 'data')
    text = PRETRAIN.replace("'ImageDataset'", "'NotedImages'").replace("'VideoDataset'", "'NotedVideos'")
    config = write_config(tmp_path / 'pretrain.py', text, data)
    options = {
        **decoder,
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


# ---------------------------------------------------------------------------------------------------------------------
# What a run may change when it goes on


ALLOWED = {'default_hooks.resume.allow_changes': True}
SOURCES = 'train_dataloader.dataset.sources'


class Stopped:
    """A run of pictures and videos that stopped at step 7 of 10, within its second epoch; each test takes a copy."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.data = write_data(folder / 'data')
        text = PRETRAIN.replace("'ImageDataset'", "'NotedImages'").replace("'VideoDataset'", "'NotedVideos'")
        self.config = write_config(folder / 'pretrain.py', text, self.data)
        self.work, self.options = folder / 'work', {'default_hooks.checkpoint.interval': 10, **options}
        NotedReads.log = folder / 'reads'
        hooks = [*options.get('custom_hooks', []), dict(type='StopHook', steps=SAVED)]
        more = {'default_hooks.checkpoint.minutes': 0.0, 'custom_hooks': hooks}
        with pytest.raises(KeyboardInterrupt):
            build_runner(self.config, self.work, self.options | more).train()
        wait_until_written()

    def resumed(self, copy: Path, **options: Any) -> Runner:
        """A Runner that goes on in a copy, with other options; nothing is trained yet."""
        if not copy.exists():
            shutil.copytree(self.work, copy)
        NotedReads.log = copy / 'reads'
        return build_runner(self.config, copy, {**self.options, 'resume': True, **options})


@pytest.fixture(scope='module')
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Stopped:
    return Stopped(tmp_path_factory.mktemp('stopped'))


def loaded(runner: Runner) -> Runner:
    """Goes on, and stops before the first step."""
    runner.register_hook(StopBefore(), priority='LOWEST')
    with pytest.raises(KeyboardInterrupt):
        runner.train()
    return runner


class StopBefore(Hook):
    def before_train(self, runner: Runner) -> None:
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ('key', 'is_free'),
    [
        ('train_dataloader.num_workers', True),
        ('train_dataloader.batch_size.video', True),
        ('train_dataloader.dataset.reads_in_flight', True),
        ('train_dataloader.dataset.sources.movies.root', True),
        ('train_dataloader.dataset.sources.movies.backend_args.backend', True),
        ('train_cfg.max_epochs', True),
        ('train_cfg.val_interval', True),
        ('default_hooks.checkpoint.interval', True),
        ('custom_hooks.KNNHook.interval', True),
        ('val_dataloader.batch_size', True),
        ('model.init_cfg.checkpoint', True),
        ('model.backbone.grad_checkpointing', True),
        ('env_cfg.dist_cfg.timeout', True),
        ('env_cfg.resource_limit', True),
        ('optim_wrapper.shard', True),
        ('randomness.deterministic', True),
        ('env_cfg.float32_precision', False),
        ('randomness.seed', False),
        ('model.mask_generator.image.ratio', False),
        ('model.backbone.drop_path_rate', False),
        ('train_dataloader.batch_sampler.global_batch_size', False),
        ('train_dataloader.sampler.repeats.movies', False),
        ('train_dataloader.dataset.sources.movies.replicas', False),
        ('train_dataloader.dataset.sources.movies.transforms.0.size', False),
        ('optim_wrapper.optimizer.type', False),
        ('optim_wrapper.optimizer.betas', False),
        ('optim_wrapper.optimizer.eps', False),
        ('optim_wrapper.clip_grad.max_norm', False),
        ('optim_wrapper.paramwise_cfg.layer_decay', False),
        ('optim_wrapper.dtype', False),
        ('param_scheduler.warmup_epochs', False),
        ('custom_hooks.EMAHook.momentum', False),
        ('default_hooks.average.ema_type', False),
        ('default_hooks.step_seed.type', False),
        ('a.key.of.somebody', False),
    ],
)
def test_what_may_change(key: str, is_free: bool):
    assert Change(key, 1, 2).is_free == is_free


def test_a_config_in_a_checkpoint_is_read_and_not_run(tmp_path: Path):
    cfg = dict(
        model=dict(type='A', size=(2, 16), other={'a b': 1, 3: -1.5}, rest=None, empty=dict()),
        custom_hooks=[dict(type='X', a=1), dict(type='X', a=2), dict(type='Y')],
        steps=[1, float('inf')],
    )
    text = Config(cfg, format_python_code=False).pretty_text + f'\nevil=open({str(tmp_path / "ran")!r}, "w")\n'
    found = settings(text)
    assert not (tmp_path / 'ran').exists()
    assert found.pop('evil').startswith('open(')
    assert found == {
        'model.type': 'A', 'model.size': [2, 16], 'model.other.a b': 1, 'model.other.3': -1.5,
        'custom_hooks.X.type': 'X', 'custom_hooks.X.a': 1, 'custom_hooks.X2.type': 'X', 'custom_hooks.X2.a': 2,
        'custom_hooks.Y.type': 'Y', 'steps': [1, 'inf'],
    }  # fmt: skip
    lines = table(compare(dict(a=1, long='x' * 80), dict(b='y', long='z'))).splitlines()
    assert [line.split() for line in lines[:2]] == [['key', 'then', 'now'], ['a', '1', '-']]
    assert lines[2:] == ['  b     -' + ' ' * 59 + "  'y'", f"  long  '{'x' * 27} ... {'x' * 26}'  'z'"]


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (
            {'optim_wrapper.optimizer.weight_decay': 0.1, 'model.mask_generator.image.ratio': 0.75},
            r'(?s)of a run with other settings, .*\n  model\.mask_generator\.image\.ratio +0\.5 +0\.75\n'
            r'  optim_wrapper\.optimizer\.weight_decay  0\.05  0\.1\nGo on with what it had.*--allow-changes .*here on',
        ),
        ({'randomness.seed': 4}, r'randomness\.seed +0 +4'),
        ({'randomness.seed': 4, 'custom_hooks': [dict(type='EMAHook')]}, r'(?s)no average of the weights.*seed +0 +4'),
        ({f'{SOURCES}.movies.replicas': 4}, r'(?s)5 steps an epoch, and this one has 7.*movies\.replicas +2 +4'),
    ],
)
def test_a_run_of_other_settings_is_refused(stopped: Stopped, tmp_path: Path, options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        stopped.resumed(tmp_path / 'work', **options).train()
    kept, now = ((folder / 'pretrain.py').read_text() for folder in (stopped.work, tmp_path / 'work'))
    assert now == kept  # its weights would not fit another one


def test_variables_that_were_set_then_are_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(resuming.VARIABLES, 'https://released', 'OMNIMAE_CHECKPOINT')
    changes = [
        resuming.Change('model.init_cfg.checkpoint', 'my run', 'https://released'),
        resuming.Change('a', [1], [2]),
    ]
    assert resuming._variables(changes) == "Set OMNIMAE_CHECKPOINT='my run' as it was then. "


def test_a_default_that_is_written_down_is_no_change(stopped: Stopped, tmp_path: Path):
    options = {
        'optim_wrapper.optimizer.eps': 1e-8,
        'optim_wrapper.optimizer.amsgrad': False,
        'param_scheduler': [dict(type='WarmupCosineLR', warmup_epochs=1, start_lr=1e-6, end_lr=0.0)],
        'model.mask_generator.image.round_down': 'hidden',
        'model.backbone.qkv_bias': True,
        f'{SOURCES}.pictures.transforms.0.scale': (0.08, 1.0),
        f'{SOURCES}.movies.num_clips': 1,
    }
    loaded(stopped.resumed(tmp_path / 'work', **options))
    with pytest.raises(ValueError, match=r'optimizer\.eps +- +1e-06\n'):
        stopped.resumed(tmp_path / 'work', **options | {'optim_wrapper.optimizer.eps': 1e-6}).train()


def test_the_weights_that_a_run_began_with_may_be_gone(tmp_path: Path):
    """The pretrained file of a fine-tuning, which its checkpoint takes the place of."""
    config = write_config(tmp_path / 'classify.py', CLASSIFY, write_data(tmp_path / 'data', 8, 1))
    torch.save(build_runner(config, tmp_path / 'first').model.state_dict(), tmp_path / 'w.pth')
    begun = {'model.init_cfg': dict(type='Checkpoint', checkpoint=str(tmp_path / 'w.pth'))}
    build_runner(config, tmp_path / 'work', begun | {'train_cfg.max_epochs': 1}).train()
    (tmp_path / 'w.pth').unlink()
    runner = build_runner(config, tmp_path / 'work', begun | {'resume': True})
    runner.train()
    assert runner.epoch == 2
    with pytest.raises(ValueError, match=r'w\.pth: no such checkpoint file'):
        build_runner(config, tmp_path / 'new', begun | {'resume': True}).train()


def test_what_differs_is_shown_and_the_seed_is_taken_up(stopped: Stopped, tmp_path: Path):
    """Without a seed six rows were read twice and six never."""
    options = {'randomness.seed': None, 'train_dataloader.num_workers': 1, 'train_cfg.val_interval': 3}
    runner = stopped.resumed(tmp_path / 'work', **options)
    runner.train()
    assert runner.seed == 0
    sampler = runner.train_dataloader.batch_sampler
    sampler.sampler.seed, sampler.start_step = 0, SAVED - len(sampler)
    sampler.sampler.set_epoch(1)
    expected = [str(tuple(address)) for micro_batch in sampler for address in micro_batch]
    assert sorted((tmp_path / 'work' / 'reads').read_text().splitlines()) == sorted(expected)
    [log] = (path for path in (tmp_path / 'work').glob('*/*.log') if 'The config differs' in path.read_text())
    text = log.read_text()
    assert re.search(r'train_cfg\.val_interval +- +3\n  train_dataloader\.num_workers +0 +1\n', text)
    assert 'The seed is that of the checkpoint, 0.' in text


def change_data(data: Path, how: str) -> None:
    first = data / 'pictures' / 'a' / '0.png'
    if how == 'added':
        shutil.copy(first, first.with_name('x.png'))
    elif how == 'removed':
        first.unlink()
    else:
        first.rename(first.with_name('x.png'))


@pytest.mark.parametrize(
    ('how', 'message'),
    [
        ('added', r"other data: source 'pictures' had 20 rows and has 21\. Some would be read twice"),
        ('removed', r"other data: source 'pictures' had 20 rows and has 19\."),
        ('renamed', r"other data: source 'pictures' has 20 rows as before, but other paths\."),
    ],
)
def test_other_data_are_refused(stopped: Stopped, tmp_path: Path, how: str, message: str):
    shutil.copytree(stopped.data, tmp_path / 'data')
    roots = {f'{SOURCES}.{name}.root': str(tmp_path / 'data' / name) for name in ('pictures', 'movies')}
    loaded(stopped.resumed(tmp_path / 'work', **roots))  # the same data elsewhere
    change_data(tmp_path / 'data', how)
    with pytest.raises(ValueError, match=message):
        stopped.resumed(tmp_path / 'work', **roots).train()
    if how == 'added':
        runner = stopped.resumed(tmp_path / 'work', **roots, **ALLOWED)
        runner.train()
        assert runner.iter == 10
        reads = (tmp_path / 'work' / 'reads').read_text().splitlines()
        assert len(reads) == len({*reads}) == 29  # the whole second epoch, each row once


def test_labels_and_classes_are_part_of_the_data(tmp_path: Path):
    data = write_data(tmp_path / 'data', 2, 0)

    def parts(*lines: str, **more: Any) -> dict[str, Any]:
        (tmp_path / 'list.txt').write_text('\n'.join(lines))
        return ImageDataset(root=str(data / 'pictures'), ann_file=str(tmp_path / 'list.txt'), **more).fingerprint()

    def differing(**more: Any) -> set[str]:
        other = parts(*more.pop('lines', first), **more)
        return {key for key in whole if whole[key] != other[key]}

    first = ('a/0.png 0', 'b/1.png 1')
    whole = parts(*first)
    assert differing() == set()
    assert differing(lines=first[::-1]) == {'paths', 'labels'}
    assert differing(lines=('a/0.png 0', 'b/1.png 0')) == {'labels'}
    assert differing(lines=('a/0.png 0 id=x', 'b/1.png 1')) == {'ids'}
    assert differing(classes=['a', 'b']) == {'classes'}


def test_changes_that_are_allowed_hold(stopped: Stopped, tmp_path: Path):
    """MMEngine would keep the checkpoint's; the moments belong to the same weights, whose groups are others."""
    options = {'optim_wrapper.optimizer.weight_decay': 0.1, 'optim_wrapper.paramwise_cfg': dict(layer_decay=0.5)}
    before = loaded(stopped.resumed(tmp_path / 'before'))
    runner = loaded(stopped.resumed(tmp_path / 'work', **options, **ALLOWED))
    groups = runner.optim_wrapper.optimizer.param_groups
    assert {group['weight_decay'] for group in groups} == {0.0, 0.1}
    rate = warmup_cosine(SAVED / STEPS, 1e-2, 0.5, 1e-6, 0.0, True)
    np.testing.assert_allclose(groups[0]['lr'], rate * 0.5**4)
    for name, parameter in runner.model.named_parameters():
        other = dict(before.model.named_parameters())[name]
        state = [x.optim_wrapper.optimizer.state for x in (runner, before)]
        assert same(state[0][parameter], state[1][other]), name
    assert runner.iter == SAVED
    assert 'weight_decay=0.1' in (tmp_path / 'work' / 'pretrain.py').read_text()


def test_another_optimizer_begins_anew(stopped: Stopped, tmp_path: Path):
    options = {'optim_wrapper.optimizer': dict(_delete_=True, type='SGD', lr=0.1)}
    with pytest.raises(ValueError, match=r"optim_wrapper\.optimizer\.type +'AdamW' +'SGD'"):
        stopped.resumed(tmp_path / 'work', **options).train()
    for changed in (options, {'optim_wrapper.optimizer.amsgrad': True}):  # whose state lacks a part
        runner = loaded(stopped.resumed(tmp_path / 'work', **changed, **ALLOWED))
        assert not runner.optim_wrapper.optimizer.state
        assert runner.iter == SAVED


def test_an_average_that_is_gone_is_refused(tmp_path: Path):
    stopped = Stopped(tmp_path, custom_hooks=[dict(type='EMAHook', momentum=0.1)])
    kept = loaded(stopped.resumed(tmp_path / 'kept'))
    with pytest.raises(ValueError, match='has the average of an EMAHook, which this run lacks'):
        stopped.resumed(tmp_path / 'gone', custom_hooks=[]).train()
    gone = loaded(stopped.resumed(tmp_path / 'gone', custom_hooks=[], **ALLOWED))
    assert same(gone.model.state_dict(), kept.model.state_dict())  # the raw weights
    average = next(hook for hook in kept.hooks if isinstance(hook, EMAHook)).ema_model.module.state_dict()
    assert not same(gone.model.state_dict(), dict(average))


def test_a_checkpoint_without_moments_is_refused(stopped: Stopped, tmp_path: Path):
    checkpoint = torch.load(stopped.work / 'timed.pth', weights_only=True)
    del checkpoint['optimizer'], checkpoint['param_schedulers']
    torch.save(checkpoint, tmp_path / 'best_x_epoch_1.pth')
    options = {'load_from': str(tmp_path / 'best_x_epoch_1.pth')}
    with pytest.raises(ValueError, match=r'(?s)best_x_epoch_1\.pth has no state of the optimizer .*moments begin'):
        stopped.resumed(tmp_path / 'work', **options).train()
    runner = loaded(stopped.resumed(tmp_path / 'work', **options, **ALLOWED))
    assert not runner.optim_wrapper.optimizer.state
    rate = warmup_cosine(SAVED / STEPS, 1e-2, 0.5, 1e-6, 0.0, True)
    np.testing.assert_allclose(runner.optim_wrapper.optimizer.param_groups[0]['lr'], rate)


MULTI_STEP = dict(type='MultiStepLR', by_epoch=True, milestones=[1, 3], gamma=0.1)
COSINE = dict(type='CosineAnnealingLR', by_epoch=True, convert_to_iter_based=True, eta_min=1e-4)
LINEAR = dict(type='LinearLR', by_epoch=False, start_factor=0.1, end=4)


@HOOKS.register_module()
class RatesHook(Hook):
    """Keeps the rates of every step, as the log has them."""

    def before_train(self, runner: Runner) -> None:
        self.rates: list[dict[str, float]] = []

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        self.rates.append({name: rates[0] for name, rates in runner.optim_wrapper.get_lr().items()})


def rates_of(runner: Runner) -> list[dict[str, float]]:
    return next(hook.rates for hook in runner.hooks if isinstance(hook, RatesHook))


@pytest.mark.parametrize('schedule', [dict(type='WarmupCosineLR', warmup_epochs=1), [LINEAR, COSINE], MULTI_STEP])
def test_a_finished_run_made_longer_has_the_rates_of_its_schedule(tmp_path: Path, schedule: Any):
    """It was one step late from there on; of MMEngine's schedules the end stayed where it was."""
    config = write_config(tmp_path / 'classify.py', CLASSIFY, write_data(tmp_path / 'data'))
    options = {'param_scheduler': schedule, 'custom_hooks': [dict(type='RatesHook')]}

    def run(name: str, max_epochs: int, **more: Any) -> list[dict[str, float]]:
        runner = build_runner(config, tmp_path / name, {**options, 'train_cfg.max_epochs': max_epochs, **more})
        runner.train()
        return rates_of(runner)

    whole = run('whole', 4)
    assert len(whole) == 12
    assert [*whole[0]] == ['base_lr', 'lr']
    run('parts', 2)
    assert run('parts', 4, resume=True) == whole[6:]
