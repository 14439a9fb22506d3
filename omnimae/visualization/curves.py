"""Curves of trainings: the logs of all starts of a run joined, runs in one picture and one table."""

from __future__ import annotations

import json
import math
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from matplotlib.figure import Figure

# What a start writes into its text log.
RESUMED = re.compile(r'resumed epoch: \d+, iter: (\d+)')
LENGTH = re.compile(r'(\d+) optimizer steps per epoch, (\d+) in all')
TIME = re.compile(r'^(\d{4}/\d\d/\d\d \d\d:\d\d:\d\d) - ', re.MULTILINE)

WAITING = 'waiting for data, %'
# The CheckpointHook's *_best and *_best_epoch repeat a score, and say when it was.
NO_CURVES = re.compile(r'epoch|iter|step|time|data_time|memory|lr|.*_best(_epoch|_iter)?')
LOSS = re.compile(r'(?:mse|l1|cross_entropy|reconstruction)[_/](\w+)|.*loss')
# The modality of these changes from step to step, so their moving mean rises and falls with the share of videos.
IN_TURN = {'loss': ('mse', 'l1', 'cross_entropy'), 'top1': ('top1',)}
# Panels in this order, then the others.
PANELS = {
    'loss': re.compile(r'(?:.*/)?loss'),
    'accuracy, %': re.compile(r'(?:.*/)?(?:top\d|mean_class)(?:_\w+)?'),
    'learning rate': re.compile('base_lr'),
    'samples per second': re.compile('.*_per_second'),
    WAITING: re.compile(WAITING),
}
SHORT_LEGEND = 4  # names that leave room for the curves beside them


class Point(NamedTuple):
    """A value of a curve, and the usual number of steps between lines of its start."""

    value: float
    spacing: float


@dataclass
class Run:
    """A training, joined from the logs of all its starts.

    Attributes:
        folder: the work directory.
        curves: name in the log -> step -> point. Those of validations have a slash in their name.
        steps_per_epoch: optimizer steps.
        max_steps: length of the whole training, None if the log does not say it.
        hours: of all starts together, None without text logs.
        resumes: number of starts that continue an earlier one.
        resumed_at: steps after which a start continues.
        skipped: steps that were left out because the loss was not finite.
        broken: files that cannot be read.
    """

    folder: Path
    curves: dict[str, dict[int, Point]] = field(default_factory=lambda: defaultdict(dict))
    steps_per_epoch: int = 1
    max_steps: int | None = None
    hours: float | None = None
    resumes: int = 0
    resumed_at: list[int] = field(default_factory=list)
    skipped: int = 0
    broken: int = 0

    @property
    def last_step(self) -> int:
        """Last step in the log."""
        return max(step for curve in self.curves.values() for step in curve)


def read_run(folder: str | os.PathLike) -> Run:
    """Join the logs of all starts in a work directory. After the step of a resume, the later start counts.

    A line that a kill has cut is left out, and so is a curve of images and videos in turn if each has its own.

    Raises:
        ValueError: no log of a training in the folder.
    """
    run = Run(Path(folder))
    logs = {path.parent.parent: path for path in _logs(run.folder)}
    if not logs:
        raise ValueError(_no_run(run.folder))
    starts = 0
    for start, path in logs.items():
        lines = [*_lines(path)]
        text = '\n'.join(log.read_text(encoding='utf-8', errors='replace') for log in sorted(start.glob('*.log')))
        times = [datetime.strptime(stamp, '%Y/%m/%d %H:%M:%S') for stamp in TIME.findall(text)]
        if times:
            run.hours = (run.hours or 0) + (times[-1] - times[0]) / timedelta(hours=1)
        for steps, total in LENGTH.findall(text):
            run.steps_per_epoch, run.max_steps = int(steps), int(total)
        if lines:
            starts += 1
            _join(run, lines, RESUMED.findall(text), is_complete=bool(text))
    if not run.curves:
        raise ValueError(
            f'The logs in {run.folder} have no line with values. Training ended before its first interval '
            f'(default_hooks.logger.interval). Read why in {[*logs][-1]}.'
        )
    for name, parts in IN_TURN.items():
        if all(any(f'{part}_{modality}' in run.curves for part in parts) for modality in ('image', 'video')):
            run.curves.pop(name, None)
    run.resumes = max(starts - 1, len(run.resumed_at))
    run.skipped = len(_first_columns(run.folder / 'skipped_steps.txt'))
    run.broken = len(_first_columns(run.folder / 'broken_files.txt'))
    return run


def _logs(folder: Path) -> list[Path]:
    """JSON logs of a run in the order of its starts. ``scalars.json`` is the last one of a start: it has all values."""
    return sorted([*folder.glob('vis_data/*.json'), *folder.glob('*/vis_data/*.json')])


def _no_run(folder: Path) -> str:
    if not folder.is_dir():
        return f'{folder} is no folder. Give the --work-dir of a training, by default work_dirs/PATH BELOW configs.'
    below = {path.parents[2] for depth in ('*/*', '*/*/*') for path in folder.glob(f'{depth}/vis_data/*.json')}
    found = f'Runs are in: {", ".join(map(str, sorted(below)[:5]))}.' if below else 'Give the --work-dir of a training.'
    return f'{folder} has no log of a training (TIME/vis_data/scalars.json). {found}'


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text(encoding='utf-8', errors='replace').splitlines():
        try:
            values = json.loads(line)
        except ValueError:
            continue  # cut by a kill
        if isinstance(values, dict) and 'step' in values:
            yield values


def _first_columns(path: Path) -> set[str]:
    lines = path.read_text(encoding='utf-8', errors='replace').splitlines() if path.exists() else []
    return {line.partition('\t')[0] for line in lines}


def _join(run: Run, lines: Sequence[dict[str, Any]], resumed: Sequence[str], *, is_complete: bool) -> None:
    """Add the lines of a start to the curves, and remove what earlier starts have after its first step."""
    steps = [line['iter'] for line in lines if 'iter' in line]
    if run.max_steps is None:  # no text log: the longest epoch that the lines show
        sizes = [math.ceil(line['iter'] / line['epoch']) for line in lines if line.get('epoch') and 'iter' in line]
        run.steps_per_epoch = max([run.steps_per_epoch, *sizes])
    positions = [line.get('iter', line['step'] * run.steps_per_epoch) for line in lines]
    begin = int(resumed[-1]) if resumed else 0 if is_complete else min(positions) - 1
    if resumed or (not is_complete and run.curves):
        run.resumed_at.append(begin)
    for curve in run.curves.values():
        for step in [step for step in curve if step > begin]:
            del curve[step]
    spacing = median([b - a for a, b in pairwise(steps)] or [math.inf])
    for position, line in zip(positions, lines, strict=True):
        is_training = 'iter' in line
        values = {key: value for key, value in line.items() if not NO_CURVES.fullmatch(key)}
        if is_training and line.get('time') and line.get('data_time') is not None:
            values[WAITING] = 100 * line['data_time'] / line['time']
        if is_training and 'base_lr' not in line and 'lr' in line:
            values['base_lr'] = line['lr']
        for key, value in values.items():
            if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
                name = key if is_training or '/' in key else f'val/{key}'
                number = math.nan if value is None else float(value)
                run.curves[name][position] = Point(number, spacing if is_training else math.inf)


def short_names(folders: Sequence[str | os.PathLike]) -> list[str]:
    """The parts of the paths that tell the folders apart: ``a/x/run`` and ``b/x/run`` are a and b."""
    paths = [Path(folder).resolve() for folder in folders]
    if len(paths) == 1:
        return [paths[0].name]
    common = Path(os.path.commonpath(paths))
    common = common.parent if common in paths else common
    parts = [path.relative_to(common).parts for path in paths]
    while min(map(len, parts)) > 1 and len({part[-1] for part in parts}) == 1:
        parts = [part[:-1] for part in parts]
    return ['/'.join(part) for part in parts]


def _is_lower_better(name: str) -> bool:
    return bool(LOSS.fullmatch(name)) or name.rpartition('/')[2] in ('rmse', 'rel')


def _panel(name: str) -> str:
    if match := LOSS.fullmatch(name):
        return f'loss, {match[1]}' if match[1] else 'loss'
    return next((title for title, pattern in PANELS.items() if pattern.fullmatch(name)), name)


def runs_table(runs: Sequence[Run]) -> str:
    """One column for each run: length, speed, and the last and the best value of each curve."""
    names = dict.fromkeys(name for run in runs for name in run.curves if _panel(name) != 'learning rate')
    of_speed = [name for name in names if name.endswith('_per_second') or name == WAITING]
    rows = [
        ['', *short_names([run.folder for run in runs])],
        ['steps', *(f'{run.last_step} of {run.max_steps or "?"}' for run in runs)],
        ['epochs', *(_epochs(run) for run in runs)],
        ['hours', *('-' if run.hours is None else f'{run.hours:.2f}' for run in runs)],
        ['resumes', *(str(run.resumes) for run in runs)],
        ['skipped steps', *(str(run.skipped) for run in runs)],
        ['broken files', *(str(run.broken) for run in runs)],
    ]
    rows += [[f'{name} (median)', *(_median(run.curves.get(name, {})) for run in runs)] for name in of_speed]
    curves = sorted(names.keys() - {*of_speed}, key=_order)
    rows += [[name, *(_last_and_best(name, run.curves.get(name, {})) for run in runs)] for name in curves]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ('  '.join(f'{cell:{width}}' for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return '\n'.join(lines)


def _epochs(run: Run) -> str:
    total = '?' if run.max_steps is None else run.max_steps // run.steps_per_epoch
    return f'{run.last_step / run.steps_per_epoch:.3g} of {total}'


def _finite(curve: dict[int, Point]) -> dict[int, float]:
    return {step: point.value for step, point in curve.items() if math.isfinite(point.value)}


def _median(curve: dict[int, Point]) -> str:
    values = _finite(curve).values()
    return f'{median(values):.3g}' if values else '-'


def _last_and_best(name: str, curve: dict[int, Point]) -> str:
    values = _finite(curve)
    if not values:
        return '-'
    text = f'{values[max(values)]:.4g}'
    if '/' not in name and name not in PANELS and _panel(name) == name:
        return text  # a grad_norm has no best value
    best = (min if _is_lower_better(name) else max)(values, key=lambda step: values[step])
    return f'{text}, best {values[best]:.4g} at {best}'


def _order(name: str) -> tuple[int, str, bool, str]:
    """Sort losses of modalities first, then panels as in `PANELS`. Validations are last in a panel."""
    panel = _panel(name)
    place = -1 if panel.startswith('loss, ') else [*PANELS, panel].index(panel)
    return place, panel, '/' in name, name


def draw_runs(runs: Sequence[Run]) -> Figure:
    """One panel for each quantity over optimizer steps. A run has one colour, a single run one for each curve.

    Validations are dashed, with dots. A vertical line is a resume. Missing steps are gaps. A long legend is below its
    panel. Classes of one size have one accuracy: that of their mean would hide it, and is left out.
    """
    panels: dict[str, list[str]] = defaultdict(list)
    for name in sorted({name for run in runs for name in run.curves}, key=_order):
        twin = name.replace('mean_class', 'top1')
        if twin == name or not all(_are_equal(run.curves.get(name, {}), run.curves.get(twin, {})) for run in runs):
            panels[_panel(name)].append(name)
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    sizes = [len(names) if len(names) > SHORT_LEGEND else 0 for names in panels.values()]
    below = sum(math.ceil(max(sizes[row * columns : (row + 1) * columns]) / 2) for row in range(rows))
    figure = Figure(figsize=(4 * columns, 2.6 * rows + 0.4 + 0.17 * below), dpi=80, layout='constrained')
    axes = figure.subplots(rows, columns, squeeze=False).flat
    labels = short_names([run.folder for run in runs])
    for axis, (title, names) in zip(axes, panels.items(), strict=False):
        axis.set_title(title, fontsize=10)
        axis.grid(alpha=0.3)
        axis.tick_params(labelsize=8)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.set_xlim(0, max(run.last_step for run in runs) * 1.02)
        validations = [name for name in names if '/' in name]
        for number, run in enumerate(runs):
            for step in run.resumed_at:
                axis.axvline(step, color=f'C{number}' if len(runs) > 1 else 'grey', alpha=0.4, linewidth=0.8)
            for index, name in enumerate(names):
                color = f'C{(number if len(runs) > 1 else index) % 10}'
                steps, values = _with_gaps(run.curves.get(name, {}))
                if name in validations:
                    marker = 'os^vDP'[validations.index(name) % 6 if len(runs) > 1 else 0]
                    style = dict(linestyle='--', marker=marker, markersize=3)
                else:
                    style = dict(linestyle=('-', ':', '-.')[index % 3 if len(runs) > 1 else 0])
                    style |= dict(marker='.', markevery=_alone(values))
                axis.plot(steps, values, color=color, linewidth=1.2, label=name, **style)
        if names not in ([title], ['base_lr']):
            handles = [copy(line) for line in axis.get_legend_handles_labels()[0][: len(names)]]
            for handle, name in zip(handles, names, strict=True):
                handle.set_marker(handle.get_marker() if name in validations else '')
                handle.set_color('grey' if len(runs) > 1 else handle.get_color())
            place = dict(loc='upper center', bbox_to_anchor=(0.5, -0.2), ncols=2) if len(names) > SHORT_LEGEND else {}
            axis.legend(handles, names, fontsize=7, **place)
    for axis in [*figure.axes][len(panels) :]:
        axis.remove()
    for axis in figure.axes[-columns:]:
        axis.set_xlabel('optimizer step', fontsize=8)
    if len(runs) == 1:
        figure.suptitle(labels[0], fontsize=11)
    else:
        lines = [figure.axes[0].plot([], [], color=f'C{number % 10}')[0] for number in range(len(runs))]
        figure.legend(lines, labels, loc='outside upper center', ncols=min(4, len(runs)), fontsize=9)
    return figure


def _are_equal(curve: dict[int, Point], other: dict[int, Point]) -> bool:
    return curve.keys() == other.keys() and all(
        math.isclose(curve[step].value, other[step].value, rel_tol=1e-5) for step in curve
    )


def _with_gaps(curve: dict[int, Point]) -> tuple[list[float], list[float]]:
    """Steps and values, with NaN where lines are missing."""
    steps: list[float] = []
    values: list[float] = []
    for step in sorted(curve):
        if steps and step - steps[-1] > 2.5 * max(curve[step].spacing, curve[int(steps[-1])].spacing):
            steps, values = [*steps, math.nan], [*values, math.nan]
        steps, values = [*steps, step], [*values, curve[step].value]
    return steps, values


def _alone(values: Sequence[float]) -> list[int]:
    """Indices of the points that no line shows: those between missing ones."""
    is_there = [False, *map(math.isfinite, values), False]
    return [i for i in range(len(values)) if is_there[i : i + 3] == [False, True, False]]
