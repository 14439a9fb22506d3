"""Reproduce a claim of the paper at small scale: pretrain, fine-tune and test all rows of an experiment, over seeds.

python tools/reproduce.py EXPERIMENT [--form reduced] [--seeds 3] [--work-dir work_dirs/reproduce] [--amp]

EXPERIMENT is a declaration in configs/small, such as figure2, or the path of your own. configs/small/figure2.yaml
explains the format. A row starts with a pretraining, or from scratch. Each task is then trained with each of its
learning rates. The one with the best validation score for the first seed is used for the row's other seeds. The table
shows test scores, and differences to baselines, paired by seed, with their 95 % interval. All rows of a task have the
same steps and the same augmentation.

Finished pieces are never repeated, even if another experiment made them. Stop at any time (Ctrl-C, or SIGTERM to lose
no step), and continue with the same command. Run it in two shells to use two cores, or two GPUs, each with its own
CUDA_VISIBLE_DEVICES: processes share the pieces. WORK_DIR/EXPERIMENT_FORM (and _amp) gets table.md, results.json and
plot.png.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import fcntl
import functools
import gc
import hashlib
import io
import itertools
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from omnimae.stopping import start_tool

if __name__ == '__main__':
    start_tool('Finished pieces are kept. The same command goes on.')  # the imports take seconds

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt
import numpy as np
import torch
import yaml
from mmengine.config import Config
from mmengine.runner import Runner

from omnimae.checkpoint import load_weights
from omnimae.config import load_config
from omnimae.engine import choose_device, setup_environment
from omnimae.flops import pretraining_rows
from omnimae.registry import MODELS
from omnimae.structures import check_out, to_json

SMALL = Path(__file__).parents[1] / 'configs' / 'small'
METRIC = 'accuracy/top1'
IRRELEVANT = {'log_level', 'log_processor', 'visualizer', 'default_hooks', 'env_cfg'}  # keys that change no result
IRRELEVANT |= {'num_workers', 'persistent_workers', 'val_interval'}
UNITS = dict(image='images', video='clips')
PATIENCE = 2.0  # seconds between checks of other processes' pieces
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)  # 97.5 % quantiles of t, 1 degree up


class Row(NamedTuple):
    """A row of the table: the config of its pretraining, None from scratch; its place on the plot's x axis."""

    name: str
    pretrain: Path | None
    x: float | None


class Task(NamedTuple):
    """A column of the table: a config, and the learning rates to try. Without any, nothing is trained.

    The table shows the difference to the task ``baseline`` of the same row.
    """

    name: str
    config: Path
    rates: tuple[float, ...]
    baseline: str | None = None


class Experiment(NamedTuple):
    """One form of a declared experiment.

    Attributes:
        data: file below OMNIMAE_DATA whose content identifies the data, or None.
        options: changes of the configs, as in ``--cfg-options``, of ``pretrain`` and of each task.
        baselines: rows that the others are compared with.
    """

    name: str
    form: str
    title: str
    data: str | None
    axis: str | None
    rows: tuple[Row, ...]
    tasks: tuple[Task, ...]
    seeds: int
    options: dict[str, dict[str, Any]]
    baselines: tuple[str, ...] = ()


def load_experiment(name: str, form: str) -> Experiment:
    """Read a declaration."""
    path = Path(name) if name.endswith('.yaml') else SMALL / f'{name}.yaml'
    if not path.is_file():
        known = ', '.join(sorted(file.stem for file in SMALL.glob('*.yaml')))
        raise ValueError(f'EXPERIMENT {name}: there is no {path}. Known: {known}. Or give the path of your own .yaml.')
    try:
        said = yaml.safe_load(path.read_text(encoding='utf-8'))
    except yaml.YAMLError as error:
        raise ValueError(f'{path}: not YAML: {" ".join(str(error).split())}.') from error
    _check_keys(path, 'the file', said, {'title', 'rows', 'tasks', 'forms'}, {'axis', 'baselines', 'data'})
    for key in ('rows', 'tasks', 'forms'):
        if not isinstance(said[key], dict) or not said[key]:
            raise ValueError(f'{path}: {key} is {said[key]!r}, it must name at least one.')
        if odd := [name for name in said[key] if not isinstance(name, str)]:
            raise ValueError(f'{path}: {key} names {odd[0]!r}, which is no text to YAML. Put it in quotes.')
    taken, chosen = _form(path, said, form)
    rows, tasks = [], []
    for key, row in said['rows'].items():
        _check_keys(path, f'rows.{key}', row, {'pretrain'}, {'x'})
        rows.append(Row(key, row['pretrain'] and _config(path, f'rows.{key}.pretrain', row['pretrain']), row.get('x')))
        if (rows[-1].x is None) != (said.get('axis') is None):
            raise ValueError(f'{path}: rows.{key}: give every row an x and the file an axis, or none of them.')
    for key, task in said['tasks'].items():
        _check_keys(path, f'tasks.{key}', task, {'config'}, {'baseline', 'rates'})
        config = _config(path, f'tasks.{key}.config', task['config'])
        rates = _rates(path, f'tasks.{key}.rates', task.get('rates', ()))
        if key in chosen.get('rates', {}):
            rates = _rates(path, f'forms.{form}.rates.{key}', chosen['rates'][key])
        _check_names(path, f'tasks.{key}.baseline', [task.get('baseline', key)], said['tasks'])
        tasks.append(Task(key, config, rates, task.get('baseline')))
    _check_names(path, 'baselines', said.get('baselines', []), said['rows'])
    return Experiment(
        path.stem,
        form,
        said['title'],
        said.get('data'),
        said.get('axis'),
        tuple(row for row in rows if row.name in taken),
        tuple(tasks),
        chosen['seeds'],
        chosen['options'],
        tuple(row for row in said.get('baselines', ()) if row in taken),
    )


def _form(path: Path, said: Mapping[str, Any], form: str) -> tuple[list[str], dict[str, Any]]:
    """Names of a form's rows, and its part of the declaration."""
    if form not in said['forms']:
        raise ValueError(f'{path}: there is no form {form!r}. Choose from {", ".join(said["forms"])}.')
    chosen = said['forms'][form]
    _check_keys(path, f'forms.{form}', chosen, {'seeds', 'options'}, {'rates', 'rows'})
    if not isinstance(chosen['seeds'], int) or chosen['seeds'] < 1:
        raise ValueError(f'{path}: forms.{form}.seeds is {chosen["seeds"]!r}, it must be 1 or more.')
    _check_keys(path, f'forms.{form}.options', chosen['options'], set(), {'pretrain', *said['tasks']})
    for key, changes in chosen['options'].items():
        if not isinstance(changes, dict):
            raise ValueError(
                f'{path}: forms.{form}.options.{key} is {changes!r}, it must be keys of a config with values.'
            )
    _check_keys(path, f'forms.{form}.rates', chosen.get('rates', {}), set(), set(said['tasks']))
    taken = chosen.get('rows', list(said['rows']))
    if not taken:
        raise ValueError(f'{path}: forms.{form}.rows is {taken!r}, it must be a list of rows.')
    _check_names(path, f'forms.{form}.rows', taken, said['rows'])
    return taken, chosen


def _check_names(path: Path, place: str, value: Any, known: Mapping[str, Any]) -> None:
    if not isinstance(value, list):
        raise ValueError(f'{path}: {place} is {value!r}, it must be a list of rows.')
    if unknown := [str(name) for name in value if name not in known]:
        raise ValueError(f'{path}: {place} names {", ".join(unknown)}; there are {", ".join(known)}.')


def _rates(path: Path, place: str, value: Any) -> tuple[float, ...]:
    try:
        return tuple(map(float, value))
    except (TypeError, ValueError) as error:
        raise ValueError(f'{path}: {place} is {value!r}, it must be a list of numbers.') from error


def _check_keys(path: Path, place: str, value: Any, needed: set[str], allowed: set[str]) -> None:
    if not isinstance(value, dict):
        raise ValueError(f'{path}: {place} is {value!r}, it must have the keys {", ".join(sorted(needed | allowed))}.')
    if missing := sorted(needed - value.keys()):
        raise ValueError(f'{path}: {place} lacks {", ".join(missing)}.')
    if unknown := sorted(value.keys() - needed - allowed):
        known = ', '.join(sorted(needed | allowed))
        raise ValueError(f'{path}: {place} has {", ".join(unknown)}, which nothing reads. Known: {known}.')


def _config(path: Path, place: str, name: str) -> Path:
    config = path.parent / name
    if not config.is_file():
        raise ValueError(f'{path}: {place} is {name!r}, and there is no {config}. Give a path relative to this file.')
    return config


class Workshop:
    """Makes each piece once: a pretraining, or a task from one start with one learning rate and one seed.

    The folder of a piece has the digest of its config and of the data's record in its name. So results never get mixed
    up. A piece that another process is making is None.

    Args:
        folder: of the pieces.
        amp: bfloat16 autocast in training.
        data: see `Experiment`.
    """

    def __init__(self, folder: Path, amp: bool, data: str | None) -> None:
        self.folder, self.amp = folder, amp
        self.root = os.path.expanduser(os.environ.get('OMNIMAE_DATA') or 'data').rstrip('/')
        record = data and Path(self.root, data)
        if record and not record.is_file():
            raise ValueError(
                f'there is no {record}, the record of the data that this experiment needs. '
                'docs/evidence.md says by which commands they are made.'
            )
        self.record = record and record.read_text(encoding='utf-8')
        self._is_waiting = False

    def pretrain(self, row: Row, seed: int, options: Mapping[str, Any]) -> tuple[str, dict[str, Any] | None]:
        """-> the name of the piece, and its result."""
        cfg = self.config(row.pretrain, options, seed)
        name = self._name(_pretrain, row.pretrain, cfg, '')
        return name, self._once(_pretrain, name, cfg)

    def measure(
        self, task: Task, start: str | None, rate: float | None, seed: int, options: Mapping[str, Any]
    ) -> dict[str, Any] | None:
        """Run one task from the piece ``start`` -> 'val' and 'test', top-1 in percent."""
        cfg = self.config(task.config, options, seed)
        make = _test if rate is None else _train
        if rate is not None:
            cfg.optim_wrapper.optimizer.lr = rate
        return self._once(make, self._name(make, task.config, cfg, start or 'scratch'), cfg, start)

    def weights(self, piece: str) -> str:
        """Path of a piece's weights."""
        [path] = (self.folder / piece).glob('*_raw.safetensors')
        return str(path)

    def config(self, path: Path, options: Mapping[str, Any], seed: int) -> Config:
        """Read a config and change it."""
        cfg = copy.deepcopy(_load(path, json.dumps(options)))
        cfg.merge_from_dict({'randomness.seed': seed})
        if self.amp and 'optim_wrapper' in cfg:
            cfg.optim_wrapper.dtype = 'bfloat16'
        return cfg

    def _name(self, make: Callable, path: Path, cfg: Config, start: str) -> str:
        relevant = [make.__name__, self._relevant(cfg.to_dict()), start, self.record]
        return f'{path.stem}_{hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()[:12]}'

    def _relevant(self, value: Any) -> Any:
        """The part of a config that can change a result, independent of where the data are."""
        if isinstance(value, dict):
            return {str(key): self._relevant(one) for key, one in value.items() if key not in IRRELEVANT}
        if isinstance(value, list | tuple):
            return [self._relevant(one) for one in value]
        if isinstance(value, str) and value.startswith(f'{self.root}/'):
            return f'data/{value.removeprefix(self.root).lstrip("/")}'
        return value if isinstance(value, int | float | None) else str(value)

    def _once(self, make: Callable, name: str, cfg: Config, start: str | None = None) -> dict[str, Any] | None:
        folder = self.folder / name
        done = folder / 'done.json'
        with _claim(folder) as is_ours:
            if is_ours and not done.exists():
                began = time.perf_counter()
                cfg.work_dir, cfg.experiment_name, cfg.log_level = str(folder), name, 'WARNING'
                try:
                    result = make(cfg, None if start is None else self.weights(start))
                except (ValueError, FloatingPointError) as error:
                    raise ValueError(f'{name}: {error}') from error
                gc.collect()  # workers of the loaders end with them
                _write(done, to_json({**result, 'machine': machine()}, indent=2).encode())
                scores = ''.join(f', {key} {result[key]:.1f} %' for key in ('val', 'test') if key in result)
                print(f'{name}: {time.perf_counter() - began:.0f} s{scores}', flush=True)
            if is_ours:
                for checkpoint in folder.glob('*.pth'):  # the exported weights stay
                    checkpoint.unlink()
        if not (is_ours or self._is_waiting or done.exists()):
            print(f'Another process is making {name}; continuing with the rest.', flush=True)
            self._is_waiting = True
        return json.loads(done.read_text()) if done.exists() else None


@contextlib.contextmanager
def _claim(folder: Path) -> Iterator[bool]:
    """Lock a folder, even if this process is killed, and tell whether no other process had locked it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / 'lock').open('w') as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            yield False
        else:
            yield True


def _write(path: Path, content: bytes) -> None:
    """Write a file at once, so that no other process sees a part of it."""
    part = path.with_name(f'{path.name}.{os.getpid()}')
    part.write_bytes(content)
    part.replace(path)


@functools.cache
def _load(path: Path, options: str) -> Config:
    return load_config(path, json.loads(options))


def _pretrain(cfg: Config, weights: None) -> dict[str, Any]:
    """Pretrain -> numbers of the piece. Multiply-adds are counted first, so that an error costs no training."""
    with torch.device('meta'):
        rows = pretraining_rows(MODELS.build(cfg.model))
    runner, result = _fit(cfg)
    macs = {row.modality: row.total for row in rows if row.what == 'masked, as it runs'}
    return {**result, **_costs(runner, macs)}


def _train(cfg: Config, weights: str | None) -> dict[str, Any]:
    """Train from the weights, or from scratch, and test. A learning rate that diverges scores 0."""
    cfg.model.init_cfg = None if weights is None else dict(type='Checkpoint', checkpoint=weights)
    try:
        runner, result = _fit(cfg)
    except FloatingPointError as error:
        print(error, flush=True)
        return dict(val=0.0, test=0.0, has_diverged=True)
    runner._resume = False  # else validation and test would load a checkpoint
    result.update(val=runner.val()[METRIC], test=runner.test()[METRIC])
    result['samples'].update(val=len(runner.val_dataloader.dataset), test=len(runner.test_dataloader.dataset))
    return result


def _fit(cfg: Config) -> tuple[Runner, dict[str, Any]]:
    """Train without validation, from the last checkpoint if there is one."""
    cfg.resume = True
    cfg.train_cfg.val_begin = cfg.train_cfg.max_epochs + 1
    runner = Runner.from_cfg(cfg)
    runner.train()
    times = runner.message_hub.get_scalar('train/time').data[0]  # of the last steps
    return runner, dict(
        steps=runner.max_iters,
        batch=runner.train_dataloader.batch_sampler.global_batch_size,
        seconds=float(np.mean(times)) * runner.max_iters,
        samples=dict(train=len(runner.train_dataloader.dataset)),
    )


def _costs(runner: Runner, macs: Mapping[str, int]) -> dict[str, Any]:
    """Multiply-adds of a forward pass and median samples a second of a pretraining, for each modality."""
    costs = {}
    for modality, unit in UNITS.items():
        if (key := f'train/{unit}_per_second') in runner.message_hub.log_scalars:
            rate = float(np.median(runner.message_hub.get_scalar(key).data[0]))
            costs.update({f'{modality}_rate': rate, f'{modality}_macs': macs[modality]})
    return costs


def _test(cfg: Config, weights: str | None) -> dict[str, Any]:
    """Test a backbone without training."""
    runner = Runner.from_cfg(cfg)
    if weights is not None:
        load_weights(runner.model, weights, complete=True)
    return dict(test=runner.test()[METRIC])


class Results:
    """The numbers of an experiment so far, and their table and plot."""

    def __init__(self, experiment: Experiment, seeds: int) -> None:
        self.experiment, self.seeds = experiment, seeds
        self.pretrainings: list[dict[str, Any]] = []
        self.measurements: list[dict[str, Any]] = []

    def values(self, row: str, task: str) -> list[float]:
        """Test accuracies of a cell, one a seed, with `best_rate`."""
        return list(self._by_seed(row, task).values())

    def differences(self, cell: tuple[str, str], baseline: tuple[str, str]) -> list[float]:
        """Test accuracies of a cell (row, task) minus those of another one, for the seeds that both have."""
        these, those = self._by_seed(*cell), self._by_seed(*baseline)
        return [value - those[seed] for seed, value in these.items() if seed in those]

    def _by_seed(self, row: str, task: str) -> dict[int, float]:
        rate = self.best_rate(row, task)
        cell = [one for one in self.measurements if (one['row'], one['task'], one['rate']) == (row, task, rate)]
        return {one['seed']: one['test'] for one in sorted(cell, key=lambda one: one['seed'])}

    def best_rate(self, row: str, task: str) -> float | None:
        """Learning rate with the highest validation accuracy for the first seed; None if nothing is trained."""
        cell = [one for one in self.measurements if (one['row'], one['task'], one['seed']) == (row, task, 0)]
        trained = [one for one in cell if one['rate'] is not None]
        return max(trained, key=lambda one: one['val'])['rate'] if trained else None

    def table(self) -> str:
        """Markdown table of mean and std over the seeds, and of differences between tasks."""
        tasks = [task.name for task in self.experiment.tasks]
        pairs = [(task.name, task.baseline) for task in self.experiment.tasks if task.baseline]
        heads = [*tasks, *(f'{task} - {baseline}' for task, baseline in pairs)]
        heads = ['pretraining', *heads, 'seconds', 'MMACs image / video', 'samples a second image / video']
        lines = [f'| {" | ".join(heads)} |', '|---' * len(heads) + '|']
        for row in self.experiment.rows:
            cells = [_spread(self.values(row.name, task)) for task in tasks]
            for task, baseline in pairs:
                cells.append(_interval(self.differences((row.name, task), (row.name, baseline))))
            made = [one for one in self.pretrainings if one['row'] == row.name]
            seconds = f'{np.mean([one["seconds"] for one in made]):.0f}' if made else '-'
            macs = _pair(made, 'macs', 1e-6)
            lines.append(f'| {" | ".join([row.name, *cells, seconds, macs, _pair(made, "rate", 1.0)])} |')
        return '\n'.join(lines)

    def comparison(self, baseline: str) -> str:
        """Markdown table of the differences to a row."""
        tasks = [task.name for task in self.experiment.tasks]
        lines = [f'| difference to {baseline} | {" | ".join(tasks)} |', '|---' * (len(tasks) + 1) + '|']
        for row in self.experiment.rows:
            if row.name != baseline:
                cells = [_interval(self.differences((row.name, task), (baseline, task))) for task in tasks]
                lines.append(f'| {" | ".join([row.name, *cells])} |')
        return '\n'.join(lines)

    def summary(self) -> str:
        """Tables, number of seeds, time and budgets in Markdown."""
        one = self.experiment
        budgets = [f'pretraining {_budget(self.pretrainings)}'] * bool(self.pretrainings)
        for task in one.tasks:
            measured = [row for row in self.measurements if row['task'] == task.name]
            if task.rates and measured:
                rates = sorted({row['rate'] for row in measured})
                best = ', '.join(f'{row.name} {self._rate_in_words(row, task, rates)}' for row in self._measured(task))
                budgets.append(f'{task.name} {_budget(measured)}; lr of {", ".join(map(_g, rates))}: {best}')
        total = sum(row['seconds'] for row in [*self.pretrainings, *self.measurements] if 'seconds' in row)
        machines = {row['machine'] for row in [*self.pretrainings, *self.measurements]}
        lines = [
            self.table(), '',
            *(line for baseline in one.baselines * (self.seeds > 1) for line in (self.comparison(baseline), '')),
            f'Top-1 on the test split in percent, {self._seeds()}.', '',
            f'* Training: {total / 60:.1f} minutes in all, on {" and ".join(sorted(machines))}',
            *(f'* Budget: {line}' for line in budgets),
        ]  # fmt: skip
        return '\n'.join(lines) + '\n'

    def report(self, command: str) -> str:
        """The experiment's page in Markdown."""
        return f'# {self.experiment.title}\n\n{self.summary()}* Command: `{command}`\n'

    def _seeds(self) -> str:
        if self.seeds == 1:
            return 'one seed'
        paired = self.experiment.baselines or any(task.baseline for task in self.experiment.tasks)
        interval = '; differences are paired by seed, with their 95 % interval, in bold if it excludes 0' * bool(paired)
        return f'mean ± standard deviation over {self.seeds} seeds{interval}'

    def _rate_in_words(self, row: Row, task: Task, rates: Sequence[float]) -> str:
        """The best learning rate, and whether it is the lowest or highest: a better one may lie beyond."""
        rate = self.best_rate(row.name, task.name)
        ends = {rates[0]: ' (lowest)', rates[-1]: ' (highest)'} if len(rates) > 1 else {}
        return f'{rate:g}{ends.get(rate, "")}'

    def _measured(self, task: Task) -> list[Row]:
        return [row for row in self.experiment.rows if self.best_rate(row.name, task.name) is not None]

    def plot(self) -> bytes:
        """Draw mean and std of every cell, and its seeds as dots -> PNG."""
        tasks, rows = self.experiment.tasks, self.experiment.rows
        curve = self.experiment.axis is not None
        size = (max(3.2 * len(tasks), 4.5), 2.6 if curve else 0.9 + 0.32 * len(rows))
        figure, axes = plt.subplots(1, len(tasks), figsize=size, squeeze=False, sharey=not curve)
        of_task = dict(zip((task.name for task in tasks), axes.flat, strict=True))
        for axis, task in zip(axes.flat, tasks, strict=True):
            if task.baseline:  # one scale for both
                (axis.sharey if curve else axis.sharex)(of_task[task.baseline])
            cells = [self.values(row.name, task.name) for row in rows]
            places = [row.x if curve else number for number, row in enumerate(rows)]
            known = [(place, cell) for place, cell in zip(places, cells, strict=True) if cell]
            means = [np.mean(cell) for _, cell in known]
            spreads = [_deviation(cell) for _, cell in known] if self.seeds > 1 else None
            at = [place for place, _ in known]
            dots = [(place, value) for place, cell in known for value in cell]
            if curve:
                axis.errorbar(at, means, yerr=spreads, marker='o', capsize=3)
                axis.plot([place for place, _ in dots], [value for _, value in dots], '.', color='grey', markersize=3)
                axis.set_xlabel(self.experiment.axis, fontsize=8)
                axis.locator_params(axis='x', nbins=5)
            else:
                axis.errorbar(means, at, xerr=spreads, fmt='o', capsize=3)
                axis.plot([value for _, value in dots], [place for place, _ in dots], '.', color='grey', markersize=3)
                axis.set_yticks(range(len(rows)), [row.name for row in rows], fontsize=8)
                axis.set_ylim(len(rows) - 0.5, -0.5)
                axis.grid(axis='y', linewidth=0.3)
            axis.set_title(f'{task.name}: top-1, %', fontsize=9)
            axis.tick_params(labelsize=7)
        figure.tight_layout()
        picture = io.BytesIO()
        figure.savefig(picture, dpi=80)
        plt.close(figure)
        return picture.getvalue()

    def write(self, folder: Path, command: str) -> None:
        """Write table.md, results.json and plot.png."""
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / 'table.md', self.report(command).encode())
        said = dict(
            title=self.experiment.title, form=self.experiment.form, command=command,
            options=self.experiment.options, pretrainings=self.pretrainings, measurements=self.measurements,
        )  # fmt: skip
        _write(folder / 'results.json', to_json(said, indent=2).encode())
        _write(folder / 'plot.png', self.plot())


def _deviation(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=len(values) > 1))


def _spread(values: Sequence[float]) -> str:
    if len(values) < 2:
        return f'{values[0]:.1f}' if values else 'not yet run'
    return f'{np.mean(values):.1f} ± {_deviation(values):.1f}'


def _interval(differences: Sequence[float]) -> str:
    """Mean and 95 % t interval, bold if that excludes 0."""
    if len(differences) < 2:
        return f'{differences[0]:+.1f}' if differences else '-'
    mean, count = float(np.mean(differences)), len(differences)
    half = STUDENT[min(count, len(STUDENT) + 1) - 2] * _deviation(differences) / count**0.5
    text = f'{mean:+.1f} ({mean - half:+.1f} to {mean + half:+.1f})'
    return f'**{text}**' if abs(mean) > half else text


def _g(value: float) -> str:
    return f'{value:g}'


def _pair(made: Sequence[Mapping[str, Any]], what: str, scale: float) -> str:
    numbers = [[one[f'{modality}_{what}'] for one in made if f'{modality}_{what}' in one] for modality in UNITS]
    return ' / '.join(f'{scale * np.mean(row):.1f}' if row else '-' for row in numbers)


def _budget(made: Sequence[Mapping[str, Any]]) -> str:
    steps: dict[tuple[str, int], set[int]] = {}
    for one in made:
        if 'steps' in one:  # not where it diverged
            steps.setdefault((_splits(one['samples']), one['batch']), set()).add(one['steps'])
    budgets = sorted(steps.items())
    return ' and '.join(
        f'{" or ".join(map(str, sorted(counts)))} steps of {batch} ({splits})' for (splits, batch), counts in budgets
    )


def _splits(samples: Mapping[str, int]) -> str:
    return ', '.join(f'{split} {count}' for split, count in samples.items())


@functools.cache
def machine() -> str:
    """Processor or GPU, threads and PyTorch of this machine."""
    info = Path('/proc/cpuinfo')
    names = [line.split(':')[1].strip() for line in info.read_text().splitlines() if line.startswith('model name')]
    device = torch.cuda.get_device_name() if choose_device() == 'cuda' else (names or [platform.processor()])[0]
    return f'{device}, {torch.get_num_threads()} threads, PyTorch {torch.__version__.split("+")[0]}'


def run(experiment: Experiment, seeds: int, workshop: Workshop) -> Iterator[Results]:
    """Make all pieces that no other process makes, seed by seed and row by row. Yield the results after each row.

    All configs are checked before anything runs.
    """
    options = {key: experiment.options.get(key, {}) for key in ('pretrain', *(task.name for task in experiment.tasks))}
    for row in experiment.rows:
        if row.pretrain:
            workshop.config(row.pretrain, options['pretrain'], 0)
    for task in experiment.tasks:
        cfg = workshop.config(task.config, options[task.name], 0)
        if needed := [key for key in ('test_dataloader', 'optim_wrapper')[: 1 + bool(task.rates)] if key not in cfg]:
            raise ValueError(f'tasks.{task.name}: {task.config} has no {needed[0]}, which a task needs.')
    results = Results(experiment, seeds)
    todo = list(itertools.product(range(seeds), experiment.rows))
    while todo:
        for seed, row in list(todo):
            is_rate_known = seed == 0 or (0, row) not in todo
            if is_rate_known and _add_row(results, row, seed, workshop, options):
                todo.remove((seed, row))
                yield results
        if todo:  # other processes make the rest
            time.sleep(PATIENCE)


def _add_row(results: Results, row: Row, seed: int, workshop: Workshop, options: Mapping[str, Any]) -> bool:
    """Make the pieces of a row that no other process makes. Once all are done, add them to the results."""
    start, pretrainings, measurements = None, [], []
    if row.pretrain:
        start, made = workshop.pretrain(row, seed, options['pretrain'])
        if made is None:
            return False
        pretrainings.append(dict(row=row.name, seed=seed, piece=start, **made))
    is_complete = True
    for task in results.experiment.tasks:
        rates = task.rates if seed == 0 else (results.best_rate(row.name, task.name),)
        for rate in rates or (None,):
            made = workshop.measure(task, start, rate, seed, options[task.name])
            if made is None:
                is_complete = False
            else:
                measurements.append(dict(row=row.name, task=task.name, seed=seed, rate=rate, **made))
    if is_complete:
        results.pretrainings += pretrainings
        results.measurements += measurements
    return is_complete


def parse_args(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('experiment', metavar='EXPERIMENT', help='name or path of a declaration')
    parser.add_argument('--form', default='reduced', help='a form of the declaration; default: reduced')
    parser.add_argument('--seeds', type=int, help='number of seeds; default: that of the form')
    parser.add_argument(
        '--work-dir',
        type=Path,
        default=Path('work_dirs/reproduce'),
        help='folder of results; default: work_dirs/reproduce',
    )
    parser.add_argument('--amp', action='store_true', help='train in bfloat16 autocast')
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> None:
    """Make the missing pieces, and write table, numbers and plot."""
    args = parse_args(words)
    setup_environment()
    if choose_device() == 'cpu':
        torch.set_num_threads(1)  # a second process uses a second core better than a second thread
    command = ' '.join(['python tools/reproduce.py', *(sys.argv[1:] if words is None else words)])
    try:
        experiment = load_experiment(args.experiment, args.form)
        seeds = experiment.seeds if args.seeds is None else args.seeds
        if seeds < 1:
            raise ValueError(f'--seeds is {seeds}, at least 1 is needed.')
        check_out(args.work_dir, is_folder=True, name='--work-dir: ')
        workshop = Workshop(args.work_dir / 'pieces', args.amp, experiment.data)
        folder = args.work_dir / f'{experiment.name}_{experiment.form}{"_amp" * args.amp}'
        for results in run(experiment, seeds, workshop):
            results.write(folder, command)
    except (ValueError, OSError) as error:
        sys.exit(f'reproduce.py: {error}')
    print(results.report(command))


if __name__ == '__main__':
    main()
