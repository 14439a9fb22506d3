"""The wheel has all that a checkout has, and the commands, names and index that come with it work without one."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable
from email.parser import Parser
from pathlib import Path

import mmengine.hub
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from tiny_benchmarks import write_image, write_video
from tiny_models import model_config

import omnimae
from omnimae import __main__ as console
from omnimae import apis
from omnimae import config as config_module
from omnimae.checkpoint import export
from omnimae.config import default_work_dir, find_config, load_config, offer_configs
from omnimae.registry import MODELS
from omnimae.stopping import command_with
from omnimae.zoo import ZOO, index

ROOT = Path(__file__).parents[1]
BUILD = "import setuptools.build_meta as backend; print(backend.build_wheel('dist'))"
FOR_A_CHECKOUT = {'quickstart.sh', 'run_tests.sh', 'setup_venv.sh'}


@pytest.fixture(scope='module')
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of this checkout, built elsewhere."""
    source = tmp_path_factory.mktemp('source')
    unwanted = shutil.ignore_patterns('__pycache__', '*.egg-info')
    for name in ('omnimae', 'configs', 'tools'):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=unwanted)
    for name in ('pyproject.toml', 'README.md', 'LICENSE', 'model-index.yml'):
        shutil.copy(ROOT / name, source)
    subprocess.run([sys.executable, '-c', BUILD], cwd=source, check=True, capture_output=True)
    [built] = (source / 'dist').iterdir()
    return built


def files_of(folder: Path, *endings: str) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob('*') if path.suffix in endings}


def test_the_wheel_has_modules_configs_and_tools(wheel: Path):
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {f'omnimae/{name}' for name in files_of(ROOT / 'omnimae', '.py')} | {'omnimae/py.typed'}
    expected |= {f'omnimae/.mim/configs/{name}' for name in files_of(ROOT / 'configs', '.py', '.yaml', '.yml')}
    expected |= {f'omnimae/.mim/tools/{name}' for name in files_of(ROOT / 'tools', '.py', '.sh') - FOR_A_CHECKOUT}
    expected |= {'omnimae/.mim/model-index.yml'}
    assert {name for name in names if '.dist-info/' not in name} == expected


def test_the_wheel_says_what_it_is(wheel: Path):
    with zipfile.ZipFile(wheel) as file:
        info = f'omnimae-{omnimae.__version__}.dist-info'
        said = Parser().parsestr(file.read(f'{info}/METADATA').decode())
        assert file.read(f'{info}/entry_points.txt').decode().split() == [
            *('[console_scripts]', 'omnimae', '=', 'omnimae.__main__:main')
        ]
        assert f'{info}/licenses/LICENSE' in file.namelist()
    assert said['Version'] == omnimae.__version__
    assert said['License-Expression'] == 'Apache-2.0'
    assert said['Requires-Python'] == '>=3.10'
    assert said.get_payload().startswith('# omnimae')
    assert said.get_all('Project-URL')
    assert 'Typing :: Typed' in said.get_all('Classifier')
    assert f'version: {omnimae.__version__}\n' in (ROOT / 'CITATION.cff').read_text()


# ---- commands ----


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, 'argv', ['omnimae', *words])
    monkeypatch.setitem(sys.modules, '__main__', sys.modules['__main__'])
    monkeypatch.setattr('omnimae.stopping.start_tool', lambda *_: None)  # this process keeps its handlers of signals
    monkeypatch.delenv('WORLD_SIZE', raising=False)  # this process may have been a rank
    console.main()


def test_each_tool_is_a_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    run(monkeypatch)
    listed = capsys.readouterr().out.partition('commands:\n')[2].splitlines()
    tools = {path.stem for path in (ROOT / 'tools').iterdir()} - {'launch', 'slurm', '__pycache__'}
    tools -= {name.removesuffix('.sh') for name in FOR_A_CHECKOUT}
    assert [line.split()[0] for line in listed] == sorted(name.replace('_', '-') for name in tools)
    assert all(re.fullmatch(r'  [\w-]+ +[A-Z].*\.', line) for line in listed), listed
    run(monkeypatch, '--version')
    assert capsys.readouterr().out == f'{omnimae.__version__}\n'


def test_a_command_is_its_tool_with_the_same_arguments(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit, match='0'):
        run(monkeypatch, 'knn', '--help')
    assert capsys.readouterr().out.startswith('usage: omnimae knn [-h]')
    with pytest.raises(SystemExit, match="there is no command 'prepare_datasets'. Did you mean 'prepare-dataset'"):
        run(monkeypatch, 'prepare_datasets')


def test_an_error_of_ours_is_one_line_and_a_bug_has_its_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(SystemExit, match="^omnimae get-flops: 'custom/pretrane' is no file"):
        run(monkeypatch, 'get-flops', 'custom/pretrane')
    (tmp_path / 'bug.py').write_text("int('x')")
    monkeypatch.setattr(console, 'commands', lambda: {'bug': tmp_path / 'bug.py'})
    with pytest.raises(ValueError, match='invalid literal'):
        run(monkeypatch, 'bug')


def test_advice_repeats_the_command_that_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    (tmp_path / 'say.py').write_text("from omnimae.stopping import command_with\nprint(command_with('--resume'))")
    monkeypatch.setattr(console, 'commands', lambda: {'say': tmp_path / 'say.py'})
    run(monkeypatch, 'say', 'my run')
    assert capsys.readouterr().out == "omnimae say 'my run' --resume\n"
    run(monkeypatch, 'say', '--resume')
    assert capsys.readouterr().out == 'omnimae say --resume\n'
    for words in (['--launcher', 'pytorch'], ['a' * 300]):  # of one rank among several; too long
        run(monkeypatch, 'say', *words)
        assert capsys.readouterr().out == 'the same command and --resume\n'
    assert command_with('--resume') == 'the same command and --resume'


def test_a_shell_tool_runs_with_this_python(monkeypatch: pytest.MonkeyPatch):
    called: list = []
    monkeypatch.setattr(os, 'execvpe', lambda *args: called.append(args))
    run(monkeypatch, 'dist-train', 'custom/pretrain', '2', '--resume')
    [(program, words, env)] = called
    assert (program, words[2:]) == ('bash', ['custom/pretrain', '2', '--resume'])
    assert Path(words[1]).samefile(ROOT / 'tools' / 'dist_train.sh')
    assert shutil.which('python', path=env['PATH']) == shutil.which('python', path=os.path.dirname(sys.executable))


# ---- configs by name ----


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with nothing in it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize('name', ['custom/pretrain', 'custom/pretrain.py', 'configs/custom/pretrain.py'])
def test_a_config_is_found_by_its_name(empty: Path, name: str):
    path = find_config(name)
    assert path.samefile(ROOT / 'configs' / 'custom' / 'pretrain.py')
    assert default_work_dir(load_config(name).filename) == 'work_dirs/custom/pretrain'
    (empty / 'configs' / 'custom').mkdir(parents=True)  # one's own is nearer
    own = empty / 'configs' / 'custom' / 'pretrain.py'
    shutil.copy(path, own)
    assert find_config(name).samefile(own)


def test_what_is_proposed_is_accepted(empty: Path):
    """In a wheel, `get_model('vitb_in1k_ft')` proposed the name that it refused."""
    with pytest.raises(ValueError, match=r"'vitb_in1k_f' is no file.*Did you mean 'vitb_in1k_ft'\?"):
        apis.get_model('vitb_in1k_f')
    cfg, checkpoint = apis.resolve('vitb_in1k_ft', None, None)
    assert cfg.model.type == 'Classifier'
    assert checkpoint == ZOO['vitb_in1k_ft'].url


@pytest.mark.parametrize('knows_nothing', [True, False], ids=['alone', 'after a list of other packages'])
def test_configs_are_inherited_by_the_name_of_the_package(
    empty: Path, monkeypatch: pytest.MonkeyPatch, knows_nothing: bool
):
    if knows_nothing:
        monkeypatch.delitem(config_module.MODULE2PACKAGE, 'omnimae', raising=False)
    (empty / 'own.py').write_text(
        "_base_ = 'omnimae::custom/pretrain.py'\n"
        'collate = _base_.train_dataloader.collate_fn\n'
        'train_dataloader = dict(collate_fn=collate)\n'
    )
    # the scope would be an argument of the collate function, and another config to a run that resumes
    assert load_config('own.py').to_dict() == load_config('custom/pretrain').to_dict()


def test_mmengine_gives_configs_and_weights_by_name(empty: Path):
    offer_configs()
    cfg = mmengine.hub.get_config('omnimae::omnimae/finetune/vit-b_in1k.py', pretrained=True)
    assert cfg.model_path == ZOO['vitb_in1k_ft'].url
    assert cfg.model.to_dict() == load_config('omnimae/finetune/vit-b_in1k').model.to_dict()
    assert isinstance(mmengine.hub.get_config('omnimae::custom/pretrain.py'), Config)  # no weights of it are published


def test_mmengine_builds_each_published_model():
    offer_configs()
    for published in [*ZOO.values()][::3]:  # of each kind
        with torch.device('meta'):
            model = mmengine.hub.get_model(f'omnimae::{published.config}.py')
        assert sum(x.numel() for x in model.parameters()) == pytest.approx(1e6 * published.parameters, abs=5e4)


def test_mmengine_loads_published_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    cfg = Config(dict(model=model_config('finetune_videos'), model_path=str(tmp_path / 'a.torch')))
    with DefaultScope.overwrite_default_scope('omnimae'):
        released = MODELS.build(cfg.model)
    torch.save(export(released.state_dict(), 'omnimae'), cfg.model_path)
    monkeypatch.setattr('mmengine.hub.hub.get_config', lambda *_: cfg)
    model = mmengine.hub.get_model('omnimae::a/b.py', pretrained=True)
    for key, x in released.state_dict().items():
        assert model.state_dict()[key].equal(x), key


# ---- the index of published weights ----


def test_the_index_is_as_written_by_the_zoo():
    for path, text in index().items():
        assert (ROOT / path).read_text() == text, 'python -m omnimae.zoo writes it anew'


def test_the_zoo_says_what_its_page_says():
    page = (ROOT / 'docs' / 'zoo.md').read_text()
    for name, published in ZOO.items():
        accuracy = '' if published.accuracy is None else rf'(IN1K|SSv2) {published.accuracy} '
        row = rf'\| `{name}` \| `{published.config}` \| {published.parameters} M \| \d+ \| {accuracy}\|'
        assert re.search(row, page), row


# ---- an empty folder ----

OWN = """
_base_ = 'omnimae::custom/{}.py'
model = dict(backbone=dict(embed_dim=24, depth=1, num_heads=2, clip_size=(16, 64, 64)){})
interpolate_positions = True
"""
HEAD = ', head=dict(embed_dim=24, depth=1, num_heads=2)'
SOON = (
    *('train_cfg.max_epochs=1', 'train_cfg.val_interval=1', 'param_scheduler.warmup_epochs=0'),
    'optim_wrapper.dtype=None',
    *('train_dataloader.batch_size=4', 'train_dataloader.batch_sampler.global_batch_size=8'),
)
SPLITS = {'pretrain': ('train', 'val'), 'finetune': ('train', 'val', 'test')}


def options(kind: str) -> list[str]:
    loaders = [f'{split}_dataloader' for split in SPLITS[kind]]
    workers = [f'{loader}.{key}=0' for loader in loaders for key in ('num_workers', 'persistent_workers')]
    return ['--cfg-options', *SOON, *workers]


@pytest.fixture
def installed(wheel: Path, tmp_path: Path) -> Callable[..., str]:
    """The command of a fresh environment with the wheel, in an empty folder."""
    environment, folder = tmp_path / 'environment', tmp_path / 'folder'
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip', str(environment)], check=True)
    [site] = environment.glob('lib/python*/site-packages')
    (site / 'shared.pth').write_text(sysconfig.get_paths()['purelib'] + '\n')  # what it depends on
    python = str(environment / 'bin' / 'python')
    install = ['install', '--no-deps', '--no-index', '--ignore-installed', str(wheel)]
    subprocess.run([python, '-m', 'pip', *install], check=True, capture_output=True)
    folder.mkdir()
    env = {key: value for key, value in os.environ.items() if not key.startswith(('PYTHONPATH', 'OMNIMAE_'))}

    def command(*words: str, **more: str) -> str:
        program = str(environment / 'bin' / 'omnimae')
        result = subprocess.run([program, *words], cwd=folder, env={**env, **more}, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
        return result.stdout + result.stderr

    return command


@pytest.mark.slow
def test_commands_alone_pretrain_fine_tune_test_and_convert(installed: Callable[..., str], tmp_path: Path):
    folder = tmp_path / 'folder'
    for split in ('train', 'val'):
        for label, name in enumerate(('alpha', 'beta')):
            for number in range(2):
                write_image(folder / 'my' / 'images' / split / name / f'{number}.jpg', label, number)
                write_video(folder / 'my' / 'videos' / split / name / f'{number}.mp4', label, number)
    weights = 'work_dirs/pretrain/epoch_1_raw.safetensors'
    for kind, more in (('pretrain', HEAD), ('finetune', f", init_cfg=dict(checkpoint='{weights}')")):
        (folder / f'{kind}.py').write_text(OWN.format(kind, more))
    own = dict(OMNIMAE_IMAGES='my/images', OMNIMAE_VIDEOS='my/videos')

    installed('train', 'pretrain.py', *options('pretrain'), **own)
    installed('dist-train', 'pretrain.py', '2', '--work-dir', 'two', *options('pretrain'), **own)
    assert (folder / 'two' / 'epoch_1_raw.safetensors').exists()
    labelled = dict(OMNIMAE_LABELLED='my')
    installed('train', 'finetune.py', *options('finetune'), **labelled)
    tuned = 'work_dirs/finetune/epoch_1_raw.safetensors'
    installed('test', 'finetune.py', tuned, '--out', 'scores.json', *options('finetune'), **labelled)
    assert json.loads((folder / 'scores.json').read_text())['accuracy/top1'] >= 0
    installed('score', 'scores.npz', '--topk', '1')
    pictures = [str(path) for path in (folder / 'my' / 'images' / 'val' / 'alpha').iterdir()]
    installed('visualize-reconstruction', 'pretrain.py', weights, *pictures, '--out-dir', 'pictures')
    assert [*(folder / 'pictures').iterdir()]
    installed('convert-checkpoint', tuned, 'hub', '--to', 'timm', '--config', 'finetune.py')
    assert [*(folder / 'hub').iterdir()]
    assert 'M parameters' in installed('plan', 'custom/pretrain')
    assert sorted(path.name for path in folder.iterdir() if not path.name.startswith('.')) == sorted(
        ['finetune.py', 'hub', 'my', 'pictures', 'pretrain.py', 'scores.json', 'scores.npz', 'two', 'work_dirs']
    )
