"""Experiments from a declaration: what is run, what is not run again, what the table says, what is refused.

UPDATE_GOLDEN=1 python -m pytest tests/test_reproduce.py writes tables and plots of docs/evidence_details.md anew, from
the results.json that were copied to docs/evidence/EXPERIMENT_FORM.json.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from omnimae.config import load_config
from omnimae.engine.saving import ExportHook
from omnimae.registry import MODELS

ROOT = Path(__file__).parents[1]
SMALL = ROOT / 'configs' / 'small'
DEMO = ROOT / 'configs' / 'demo'

spec = importlib.util.spec_from_file_location('reproduce', ROOT / 'tools' / 'reproduce.py')
reproduce = importlib.util.module_from_spec(spec)
spec.loader.exec_module(reproduce)

SHORT = {
    'train_cfg.max_epochs': 1,
    'param_scheduler.warmup_epochs': 0,
    'train_dataloader.num_workers': 0,
    'train_dataloader.persistent_workers': False,
}
DECLARATION = {
    'title': 'A trial',
    'rows': {
        'joint': {'pretrain': str(DEMO / 'pretrain.py')},
        'scratch': {'pretrain': None},
    },
    'tasks': {
        'images': {'config': str(DEMO / 'finetune_images.py'), 'rates': [1e-3, 2e-3]},
        'k-NN': {'config': str(DEMO / 'knn_images.py')},
    },
    'forms': {'tiny': {'seeds': 2, 'options': {'pretrain': SHORT, 'images': SHORT}}},
}


def declare(folder: Path, **changes) -> str:
    path = folder / 'trial.yaml'
    path.write_text(yaml.safe_dump({**DECLARATION, **changes}, sort_keys=False))
    return str(path)


@pytest.fixture
def demo(demo_root, monkeypatch) -> None:
    monkeypatch.setenv('OMNIMAE_DATA', str(demo_root.parent))
    reproduce._load.cache_clear()  # configs read the variable


@pytest.mark.slow
@pytest.mark.usefixtures('demo')
def test_an_experiment_end_to_end_and_once_more(tmp_path, capsys):
    words = [declare(tmp_path), '--form', 'tiny', '--work-dir', str(tmp_path / 'work')]
    reproduce.main(words)
    first = capsys.readouterr().out
    assert len(re.findall(r'^pretrain_\w+: \d+ s$', first, re.M)) == 2  # one a seed
    assert len(re.findall(r'^finetune_images_\w+: \d+ s, val [\d.]+ %, test [\d.]+ %$', first, re.M)) == 2 * (2 + 1)
    folder = tmp_path / 'work' / 'trial_tiny'
    said = json.loads((folder / 'results.json').read_text())
    table = (folder / 'table.md').read_text()
    for row in ('joint', 'scratch'):
        cell = [one for one in said['measurements'] if (one['row'], one['task']) == (row, 'images')]
        rates = {one['rate']: one for one in cell if one['seed'] == 0}
        best = max(rates, key=lambda rate: rates[rate]['val'])
        tests = [one['test'] for one in cell if one['rate'] == best]
        assert len(tests) == 2
        assert f'| {np.mean(tests):.1f} ± {np.std(tests, ddof=1):.1f} |' in table
        assert f'{row} {best:g}' in table
    assert 'lr of 0.001, 0.002' in table
    assert '2 steps of 16 (train 24, val 96, test 96)' in table
    assert 'mean ± standard deviation over 2 seeds' in table
    assert Image.open(folder / 'plot.png').width > 100
    assert not list((tmp_path / 'work').rglob('*.pth'))
    reproduce.main(words)
    again = capsys.readouterr().out
    assert 'pretrain_' not in again
    assert again.split('# A trial')[1] == first.split('# A trial')[1]


@pytest.mark.slow
@pytest.mark.usefixtures('demo')
def test_processes_share_the_pieces(tmp_path):
    """A piece that was begun by a killed process is taken over; two others make each piece once, and end with all."""
    work = tmp_path / 'work'
    command = [sys.executable, ROOT / 'tools' / 'reproduce.py', declare(tmp_path), '--form', 'tiny', '--seeds', '1']
    command += ['--work-dir', work]

    def start():
        environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)

    killed = start()
    while not list(work.glob('pieces/pretrain_*/pretrain.py')):  # written before the first step
        assert killed.poll() is None
        time.sleep(0.02)
    killed.kill()
    killed.communicate()
    both = [start(), start()]
    printed = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    made = re.findall(r'^(\w+_\w{12}): \d+ s', ''.join(printed), re.M)
    assert sorted(made) == sorted(path.parent.name for path in work.glob('pieces/*/done.json'))
    assert all(re.search(r'_\w{12}: ', text) for text in printed)  # neither had nothing to do
    tables = [text[text.index('# A trial') :] for text in printed]
    assert tables[0] == tables[1]
    assert 'not yet run' not in tables[0]


@pytest.mark.usefixtures('demo')
def test_a_piece_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    text = declare(
        tmp_path,
        rows={'scratch': {'pretrain': None}},
        tasks={'images': {**DECLARATION['tasks']['images'], 'rates': [1e-3]}},
        forms={'tiny': {'seeds': 1, 'options': {'images': {**SHORT, 'train_cfg.max_epochs': 3}}}},
    )
    call_hook, steps = reproduce.Runner.call_hook, []

    def stop(runner, name, **kwargs):
        call_hook(runner, name, **kwargs)
        if name == 'before_train_iter':
            steps.append(runner.iter)
            if runner.iter == 4 and len(steps) == 5:
                signal.raise_signal(signal.SIGTERM)

    def scores(name):
        reproduce.main([text, '--form', 'tiny', '--work-dir', str(tmp_path / name)])
        said = json.loads((tmp_path / name / 'trial_tiny' / 'results.json').read_text())
        return [(one['val'], one['test'], one['steps']) for one in said['measurements']]

    whole = scores('whole')
    monkeypatch.setattr(reproduce.Runner, 'call_hook', stop)
    with pytest.raises(SystemExit) as stopped:
        scores('stopped')
    assert stopped.value.code == 75
    assert scores('stopped') == whole
    assert steps == list(range(6))


@pytest.mark.slow
@pytest.mark.usefixtures('demo')
def test_a_pretraining_stopped_in_front_of_its_export_is_finished(tmp_path, monkeypatch):
    forms = {'tiny': {'seeds': 1, 'options': {'pretrain': SHORT}}}
    text = declare(tmp_path, tasks={'k-NN': DECLARATION['tasks']['k-NN']}, forms=forms)
    words = [text, '--form', 'tiny', '--work-dir', str(tmp_path / 'work')]
    with monkeypatch.context() as patch:
        patch.setattr(ExportHook, '_export', raise_interrupt)
        with pytest.raises(KeyboardInterrupt):
            reproduce.main(words)
    assert list(tmp_path.rglob('epoch_1.pth'))
    reproduce.main(words)
    assert len(list(tmp_path.rglob('epoch_1_raw.safetensors'))) == 1
    assert not list(tmp_path.rglob('*.pth'))


def raise_interrupt(*_args) -> None:
    raise KeyboardInterrupt


@pytest.mark.usefixtures('demo')
def test_a_rate_that_diverges_loses(tmp_path, capsys):
    text = declare(
        tmp_path,
        rows={'scratch': {'pretrain': None}},
        tasks={'images': {**DECLARATION['tasks']['images'], 'rates': [1e30, 1e-3]}},
        forms={
            'tiny': {
                'seeds': 1,
                'options': {'images': {**SHORT, 'train_cfg.max_epochs': 3, 'train_cfg.max_skipped': 1}},
            }
        },
    )
    reproduce.main([text, '--form', 'tiny', '--work-dir', str(tmp_path / 'work')])
    assert 'lr of 0.001, 1e+30: scratch 0.001 (lowest)' in capsys.readouterr().out


@pytest.fixture
def name_of(tmp_path, monkeypatch):
    """-> the name of a pretraining, of data that lie in a folder and have a record."""

    def name(folder: str, record: str, options: dict) -> str:
        monkeypatch.setenv('OMNIMAE_DATA', str(tmp_path / folder))
        reproduce._load.cache_clear()
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / 'record.json').write_text(record)
        workshop = reproduce.Workshop(tmp_path, False, 'record.json')
        cfg = workshop.config(SMALL / 'pretrain' / 'joint.py', options, 0)
        return workshop._name(reproduce._pretrain, SMALL / 'pretrain' / 'joint.py', cfg, '')

    yield name
    reproduce._load.cache_clear()


def test_a_piece_is_what_can_change_its_result(name_of):
    first = name_of('here', 'a', {})
    assert name_of('elsewhere', 'a', {}) == first
    assert name_of('here', 'a', {'train_dataloader.num_workers': 7, 'default_hooks.logger.interval': 3}) == first
    others = {name_of('here', 'b', {}), name_of('here', 'a', {'optim_wrapper.optimizer.lr': 7e-3}), first}
    assert len(others) == 3


@pytest.mark.usefixtures('demo')
def test_a_task_without_rates_is_another_piece_than_a_trained_one(tmp_path, capsys):
    task = DECLARATION['tasks']['images']['config']
    tasks = {'as it is': {'config': task}, 'trained': {'config': task, 'rates': [1e-3]}}
    options = {'pretrain': SHORT, 'as it is': SHORT, 'trained': SHORT}
    forms = {'tiny': {'seeds': 1, 'options': options}}
    text = declare(tmp_path, rows={'scratch': {'pretrain': None}}, tasks=tasks, forms=forms)
    reproduce.main([text, '--form', 'tiny', '--work-dir', str(tmp_path / 'work')])
    assert len(re.findall(r'^finetune_images_\w+: ', capsys.readouterr().out, re.M)) == 2


def test_the_spread_and_the_choice_of_the_rate():
    experiment = reproduce.Experiment(
        'e',
        'f',
        'title',
        None,
        None,
        (reproduce.Row('r', None, None),),
        (reproduce.Task('t', SMALL, (1.0, 2.0)),),
        2,
        {},
    )
    results = reproduce.Results(experiment, 2)
    results.measurements = [
        dict(row='r', task='t', seed=0, rate=1.0, val=30.0, test=99.0),
        dict(row='r', task='t', seed=0, rate=2.0, val=40.0, test=10.0),
        dict(row='r', task='t', seed=1, rate=2.0, val=20.0, test=14.0),
    ]
    assert results.best_rate('r', 't') == 2.0
    assert results.values('r', 't') == [10.0, 14.0]
    assert '| r | 12.0 ± 2.8 | - | - / - | - / - |' in results.table()


def test_differences_are_paired_by_seed(tmp_path):
    task, scores = DECLARATION['tasks']['k-NN'], {'joint': (60.0, 71.0, 82.0), 'scratch': (50.0, 60.0, 70.0)}
    tasks = {'k-NN': task, 'again': {**task, 'baseline': 'k-NN'}}
    path = declare(tmp_path, tasks=tasks, baselines=['scratch'], forms={'tiny': {'seeds': 3, 'options': {}}})
    results = reproduce.Results(reproduce.load_experiment(path, 'tiny'), 3)
    for row, values in scores.items():
        for seed in (2, 0, 1) if row == 'joint' else (0, 1, 2):  # as they were finished
            for name, more in (('k-NN', 0), ('again', (seed == 2) - 0.5)):
                measured = dict(row=row, task=name, seed=seed, rate=None, test=values[seed] + more)
                results.measurements.append({**measured, 'machine': 'any'})
    paired = '**+11.0 (+8.5 to +13.5)**'  # 10, 11, 12: mean ± 4.303 / sqrt(3)
    assert (
        f'| difference to scratch | k-NN | again |\n|---|---|---|\n| joint | {paired} | {paired} |' in results.summary()
    )
    assert '| again - k-NN |' in results.table()
    assert '| joint | 71.0 ± 11.0 | 70.8 ± 11.5 | -0.2 (-1.6 to +1.3) | - |' in results.table()
    assert 'differences are paired by seed, with their 95 % interval' in results.summary()


def test_a_form_can_have_rates_of_its_own(tmp_path):
    forms = {'tiny': {'seeds': 1, 'rates': {'images': [3]}, 'options': {}}}
    assert reproduce.load_experiment(declare(tmp_path, forms=forms), 'tiny').tasks[0].rates == (3.0,)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'rows': {'joint': {'pretrain': 'nowhere.py'}}}, r"rows\.joint\.pretrain is 'nowhere\.py', and there is no"),
        ({'rows': {'joint': {'pretran': None}}}, r'rows\.joint lacks pretrain'),
        ({'rows': {'joint': {'pretrain': None, 'x': 3}}}, r'give every row an x and the file an axis'),
        ({'axis': 'steps'}, r'rows\.joint: give every row an x'),
        ({'extra': 1}, r'the file has extra, which nothing reads'),
        ({'rows': None}, r'rows is None, it must name at least one'),
        ({'rows': {61: {'pretrain': None}}}, r'rows names 61, which is no text to YAML\. Put it in quotes'),
        (
            {'forms': {'tiny': {'seeds': 1, 'rows': 'scratch', 'options': {}}}},
            r"forms\.tiny\.rows is 'scratch', it must be a list",
        ),
        ({'forms': {'tiny': {'seeds': 1, 'rows': [], 'options': {}}}}, r'forms\.tiny\.rows is \[\], it must be a list'),
        (
            {'forms': {'tiny': {'seeds': 1, 'options': {'images': 5}}}},
            r'options\.images is 5, it must be keys of a config',
        ),
        (
            {'tasks': {'images': {'config': str(DEMO / 'finetune_images.py'), 'rates': ['quick']}}},
            r"tasks\.images\.rates is \['quick'\], it must be a list of numbers",
        ),
        ({'forms': {'tiny': {'seeds': 'two', 'options': {}}}}, r"forms\.tiny\.seeds is 'two', it must be 1 or more"),
        ({'forms': {'tiny': {'seeds': 1, 'options': {'vidoes': {}}}}}, r'options has vidoes, which nothing reads'),
        ({'forms': {'full': {'seeds': 1, 'options': {}}}}, r"no form 'tiny'\. Choose from full"),
        ({'baselines': ['joined']}, r'baselines names joined; there are joint, scratch'),
        (
            {'forms': {'tiny': {'seeds': 1, 'rates': {'images': ['quick']}, 'options': {}}}},
            r"forms\.tiny\.rates\.images is \['quick'\], it must be a list of numbers",
        ),
        (
            {'forms': {'tiny': {'seeds': 1, 'rows': ['joined'], 'options': {}}}},
            r'names joined; there are joint, scratch',
        ),
    ],
)
def test_a_wrong_declaration_is_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message) as error:
        reproduce.load_experiment(declare(tmp_path, **changes), 'tiny')
    assert '\n' not in str(error.value)


@pytest.mark.usefixtures('demo')
def test_a_mistyped_option_is_refused_before_anything_runs(tmp_path):
    forms = {'tiny': {'seeds': 1, 'options': {'images': {'train_cfg.max_epoch': 1}}}}
    words = [declare(tmp_path, forms=forms), '--form', 'tiny', '--work-dir', str(tmp_path / 'work')]
    with pytest.raises(SystemExit, match=r"max_epoch=1: .* Did you mean 'max_epochs'"):
        reproduce.main(words)
    assert not (tmp_path / 'work').exists()


@pytest.mark.usefixtures('demo')
def test_a_pretraining_is_no_task(tmp_path):
    tasks = {'images': {'config': str(DEMO / 'pretrain.py'), 'rates': [1e-3]}}
    words = [declare(tmp_path, tasks=tasks), '--form', 'tiny', '--work-dir', str(tmp_path / 'work')]
    with pytest.raises(SystemExit, match=r'tasks\.images: .*pretrain\.py has no test_dataloader'):
        reproduce.main(words)
    assert not (tmp_path / 'work').exists()


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['figure3'], r'reproduce\.py: EXPERIMENT figure3: there is no .*Known: .*figure2'),
        (['figure2', '--form', 'huge'], r"there is no form 'huge'\. Choose from reduced, long, full"),
        (['figure2', '--seeds', '0'], r'--seeds is 0, at least 1 is needed'),
        (['figure2'], r'there is no .*nowhere/small/small\.json, the record of the data.*docs/evidence\.md'),
    ],
)
def test_a_wrong_command_is_one_line(words, message, monkeypatch):
    monkeypatch.setenv('OMNIMAE_DATA', 'nowhere')
    with pytest.raises(SystemExit, match=message):
        reproduce.main(words)


DECLARATIONS = sorted(SMALL.glob('*.yaml'))


@pytest.mark.parametrize('path', DECLARATIONS, ids=lambda path: path.stem)
def test_every_declaration_of_ours_holds(path):
    """All forms are read, and their configs build with the forms' options."""
    for form in yaml.safe_load(path.read_text())['forms']:
        experiment = reproduce.load_experiment(path.stem, form)
        used = {'pretrain': [row.pretrain for row in experiment.rows if row.pretrain]}
        used |= {task.name: [task.config] for task in experiment.tasks}
        for key, configs in used.items():
            for config in configs:
                cfg = load_config(config, experiment.options.get(key, {}))
                MODELS.build(cfg.model)
                assert ('test_dataloader' in cfg) == (key != 'pretrain')


def test_every_config_of_small_belongs_to_an_experiment():
    used = set()
    for path in DECLARATIONS:
        said = yaml.safe_load(path.read_text())
        used |= {row['pretrain'] for row in said['rows'].values()} | {task['config'] for task in said['tasks'].values()}
    there = {str(path.relative_to(SMALL)) for path in SMALL.rglob('*.py') if '_base_' not in path.parts}
    alone = {f'cifar10_{name}.py' for name in ('pretrain', 'finetune', 'linear', 'knn')} | {'pictures.py'}
    assert there - used == alone


EVIDENCE = ROOT / 'docs' / 'evidence_details.md'
BLOCKS = re.compile(r'<!-- (\w+)_(reduced|full) -->\n(.*?)<!-- end -->', re.DOTALL)


def measured(name: str, form: str) -> reproduce.Results:
    said = json.loads((ROOT / 'docs' / 'evidence' / f'{name}_{form}.json').read_text())
    seeds = 1 + max(one['seed'] for one in said['measurements'])
    results = reproduce.Results(reproduce.load_experiment(name, form), seeds)
    results.pretrainings, results.measurements = said['pretrainings'], said['measurements']
    return results


@pytest.mark.parametrize(('name', 'form', 'text'), BLOCKS.findall(EVIDENCE.read_text()))
def test_the_tables_of_the_evidence_are_the_measured_ones(name, form, text):
    results = measured(name, form)
    if os.environ.get('UPDATE_GOLDEN'):
        mark = f'<!-- {name}_{form} -->\n'
        EVIDENCE.write_text(EVIDENCE.read_text().replace(mark + text, mark + results.summary()))
        (ROOT / 'docs' / 'images' / f'{name}_{form}.png').write_bytes(results.plot())
        text = results.summary()
    assert text == results.summary()
    for row in results.experiment.rows:  # nothing was stopped half way
        for task in results.experiment.tasks:
            assert len(results.values(row.name, task.name)) in (0, results.seeds)


def test_all_results_are_shown():
    shown = {f'{name}_{form}' for name, form, _ in BLOCKS.findall(EVIDENCE.read_text())}
    assert shown == {path.stem for path in (ROOT / 'docs' / 'evidence').glob('*.json')}
