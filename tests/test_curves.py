"""Curves of runs: made logs of several starts, cut and overlapping, joined by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from test_faults import load_tool

from omnimae.visualization.curves import draw_runs, read_run, runs_table, short_names

LOG = """2026/11/27 10:{begin}:00 - mmengine - INFO - resumed epoch: 0, iter: {resumed}
2026/11/27 10:{begin}:01 - mmengine - INFO - Effective batch: 8 = 8 per rank; 10 optimizer steps per epoch, 40 in all.
2026/11/27 10:{end}:00 - mmengine - INFO - Saved.
"""


def train(step: int, loss: float | None, **values: float) -> dict[str, Any]:
    return dict(
        base_lr=0.1, loss=loss, time=0.5, data_time=0.1, **values, epoch=(step - 1) // 10 + 1, iter=step, step=step
    )


def write_start(folder: Path, name: str, lines: list[dict], log: str = '', end: str = '') -> None:
    data = folder / name / 'vis_data'
    data.mkdir(parents=True)
    (data / 'scalars.json').write_text(''.join(f'{json.dumps(line)}\n' for line in lines) + end)
    (data / f'{name}.json').write_text('{"step": 1, "loss": 99, "iter": 1, "epoch": 1}\n')  # has no values of hooks
    if log:
        (folder / name / f'{name}.log').write_text(log)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Killed in a line after step 15, resumed after 12, and once more after 20."""
    folder = tmp_path / 'demo' / 'run'
    validated = {'reconstruction/image': 0.9, 'time': 9.0, 'data_time': 9.0, 'step': 1}
    write_start(
        folder, '20261127_100000',
        [train(5, 1.0), train(10, 0.8), validated, train(15, 0.7)],
        LOG.format(begin='00', end='30', resumed=0).partition('\n')[2], end='{"base_lr": 0.1, "lo',
    )  # fmt: skip
    write_start(
        folder, '20261127_110000',
        [train(15, 0.75), train(20, None), {**validated, 'reconstruction/image': 0.8, 'step': 2},
         {'knn/top1': 50, 'step': 2}, {'knn/top1_best': 50, 'knn/top1_best_epoch': 2, 'step': 2}],
        LOG.format(begin='40', end='46', resumed=12),
    )  # fmt: skip
    write_start(
        folder, '20261127_120000', [train(35, 0.5), train(40, 0.6)], LOG.format(begin='50', end='56', resumed=20)
    )
    write_start(folder, '20261127_130000', [], LOG.format(begin='58', end='58', resumed=40))  # killed at once
    (folder / 'skipped_steps.txt').write_text('epoch 2, step 8\tloss nan: a\nepoch 2, step 8\tloss nan: b\n')
    (folder / 'broken_files.txt').write_text('a.jpg\tcut\nb.jpg\tempty\n')
    return folder


def values(folder: Path, name: str) -> dict[int, float]:
    return {step: point.value for step, point in sorted(read_run(folder).curves[name].items())}


def test_starts_are_joined(run: Path):
    losses = values(run, 'loss')
    assert math.isnan(losses.pop(20))
    assert losses == {5: 1.0, 10: 0.8, 15: 0.75, 35: 0.5, 40: 0.6}
    assert values(run, 'reconstruction/image') == {10: 0.9, 20: 0.8}
    assert values(run, 'knn/top1') == {20: 50}
    assert read_run(run).resumed_at == [12, 20]


def test_a_start_replaces_the_steps_after_its_resume(tmp_path: Path):
    write_start(tmp_path, '1', [train(step, 1.0) for step in range(1, 20)], '- ')
    write_start(tmp_path, '2', [train(20, 0.5)], LOG.format(begin='00', end='01', resumed=10))
    assert [*values(tmp_path, 'loss')] == [*range(1, 11), 20]
    write_start(tmp_path, '3', [train(5, 0.7)], LOG.format(begin='00', end='01', resumed=0).partition('\n')[2])
    assert values(tmp_path, 'loss') == {5: 0.7}  # killed before its first checkpoint


def test_without_text_logs_a_start_replaces_what_its_lines_overlap(tmp_path: Path):
    validated = {'accuracy/top1': 30.0, 'step': 1}
    write_start(tmp_path, '1', [train(5, 1.0), train(10, 0.9), validated, train(15, 0.8)])
    write_start(tmp_path, '2', [train(13, 0.85), train(18, 0.7)])
    assert values(tmp_path, 'loss') == {5: 1.0, 10: 0.9, 13: 0.85, 18: 0.7}
    assert values(tmp_path, 'accuracy/top1') == {10: 30.0}
    assert read_run(tmp_path).resumes == 1


def test_the_table(run: Path, tmp_path: Path):
    write_start(tmp_path / 'demo' / 'other', '1', [train(5, 2.0, images_per_second=16), train(10, 1.0)])
    text = runs_table([read_run(run), read_run(tmp_path / 'demo' / 'other')])
    assert text.splitlines() == [
        '                              run                  other',
        'steps                         40 of 40             10 of ?',
        'epochs                        4 of 4               1 of ?',
        'hours                         0.70                 -',
        'resumes                       2                    0',
        'skipped steps                 1                    0',
        'broken files                  2                    0',
        'waiting for data, % (median)  20                   20',
        'images_per_second (median)    -                    16',
        'reconstruction/image          0.8, best 0.8 at 20  -',
        'loss                          0.6, best 0.5 at 35  1, best 1 at 10',
        'knn/top1                      50, best 50 at 20    -',
    ]


def test_the_picture(run: Path, tmp_path: Path):
    other = tmp_path / 'demo' / 'other'
    write_start(other, '1', [train(5, 2.0, mse_image=2.0, top1_video=7.0), train(10, 1.0)])
    figure = draw_runs([read_run(run), read_run(other)])
    titles = [axis.get_title() for axis in figure.axes]
    assert titles == ['loss, image', 'loss', 'accuracy, %', 'learning rate', 'waiting for data, %']
    [run_line, other_line] = [line for line in figure.axes[1].lines if line.get_label() == 'loss']
    steps, drawn = run_line.get_data()
    assert [step for step in steps if not math.isnan(step)] == [5, 10, 15, 20, 35, 40]
    assert math.isnan(steps[4])  # no line of steps 21 to 30: a gap
    assert run_line.get_color() != other_line.get_color()
    resumes = [line.get_xdata()[0] for line in figure.axes[1].lines if line not in (run_line, other_line)]
    assert resumes == [12, 20]
    assert [text.get_text() for text in figure.legends[0].texts] == ['run', 'other']


def test_points_without_neighbours_are_seen(tmp_path: Path):
    write_start(tmp_path, '1', [train(step, None if step == 3 else 1.0) for step in (1, 2, 3, 4)], '- ')
    write_start(tmp_path, '2', [train(5, None)], LOG.format(begin='00', end='01', resumed=4))
    [losses] = [line for line in draw_runs([read_run(tmp_path)]).axes[0].lines if line.get_label() == 'loss']
    assert losses.get_marker() != 'None'
    assert [losses.get_xdata()[index] for index in losses.get_markevery()] == [4]  # 1 and 2 have a line between them


def test_images_and_videos_of_a_mixed_training_are_apart(tmp_path: Path):
    parts = dict(cross_entropy_image=2.0, cross_entropy_video=3.0, top1_image=9.0, top1_video=7.0, top1=8.0)
    places = ('accuracy', 'accuracy/images', 'accuracy/videos')
    validated = {f'{place}/{metric}': 5.0 for place in places for metric in ('top1', 'mean_class')}
    validated['accuracy/images/mean_class'] *= 1 + 1e-7  # rounded
    validated['accuracy/mean_class'] = 6.0  # the others would hide the accuracy that they equal
    write_start(tmp_path, '1', [train(5, 2.5, **parts), train(10, 2.5, **parts), validated | {'step': 1}])
    figure = draw_runs([read_run(tmp_path)])
    assert [axis.get_title() for axis in figure.axes][:3] == ['loss, image', 'loss, video', 'accuracy, %']
    assert not {'loss', 'top1'} & read_run(tmp_path).curves.keys()
    figure.draw_without_rendering()
    axis = figure.axes[2]
    legend = axis.get_legend().get_window_extent()
    assert [text.get_text() for text in axis.get_legend().texts] == [
        'top1_image', 'top1_video', 'accuracy/images/top1', 'accuracy/mean_class', 'accuracy/top1',
        'accuracy/videos/top1',
    ]  # fmt: skip
    assert legend.y1 < axis.get_window_extent().y0  # below the curves
    assert legend.y0 > figure.axes[4].get_tightbbox().y1  # and above the next row
    assert legend.width < figure.axes[2].get_tightbbox().width * 1.01


@pytest.mark.parametrize(
    ('folders', 'names'),
    [
        (['w/demo/run'], ['run']),
        (['w/demo/run', 'w/demo/mae'], ['run', 'mae']),
        (['w/a/run', 'w/b/run'], ['a', 'b']),
        (['w/a/1/run', 'w/b/2/run'], ['a/1', 'b/2']),
        (['w/run', 'w/run/more'], ['run', 'run/more']),
    ],
)
def test_names_tell_runs_apart(folders: list[str], names: list[str]):
    assert short_names(folders) == names


def test_the_command_draws_and_refuses(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    main = load_tool('plot_run').main
    main([str(run)])
    assert f'The picture is in {run / "curves.png"}.' in capsys.readouterr().out
    assert (run / 'curves.png').read_bytes().startswith(b'\x89PNG')
    for folder, message in {
        tmp_path / 'no': 'no is no folder. Give the --work-dir of a training',
        tmp_path: f'has no log of a training (TIME/vis_data/scalars.json). Runs are in: {run}.',
        run / '20261127_130000': 'have no line with values. Training ended before its first interval',
    }.items():
        with pytest.raises(SystemExit):
            main([str(folder)])
        assert message in capsys.readouterr().err
    (tmp_path / 'file').touch()
    (tmp_path / 'folder.png').mkdir()
    for out, message in {
        'file/a.png': 'file is a file. Give a folder',
        'folder.png': 'is a folder. Give the na',
    }.items():
        with pytest.raises(SystemExit):
            main([str(run), '--out', str(tmp_path / out)])
        assert message in capsys.readouterr().err
    main([str(run), '--out', str(tmp_path / 'paper.pdf')])
    assert (tmp_path / 'paper.pdf').read_bytes().startswith(b'%PDF')
    with pytest.raises(SystemExit):
        main([str(run), '--out', 'curves.txt'])
    assert '--out curves.txt: a picture ends in .png, .pdf or .svg' in capsys.readouterr().err
