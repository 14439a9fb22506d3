"""Every command in the documents: its words are parsed, its config is loaded; those of the guides run in small."""

from __future__ import annotations

import argparse
import os
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import DEFAULT, patch

import pytest
import torch
from mmengine.registry import DefaultScope
from PIL import Image
from programs import ROOT, TOOLS, command, environment
from stand_ins import as_here, run_text, run_tool, shrink
from tiny_benchmarks import write_image, write_video

from omnimae.__main__ import commands
from omnimae.checkpoint import save_file
from omnimae.config import find_config, load_config
from omnimae.registry import MODELS

PAGES = [*(ROOT / name for name in ('README.md', 'CONTRIBUTING.md', 'configs/README.md'))]
PAGES += sorted(ROOT.glob('docs/**/*.md'))
FENCE = re.compile(r'^```(\w*)\n(.*?)^```', re.DOTALL | re.MULTILINE)
INLINE = re.compile(r'`((?:\w+=\S* )*(?:python|bash|omnimae|torchrun|pip|mim) [^`\n]+)`')


class Command(NamedTuple):
    """A command with the environment that its page has set before."""

    page: str
    env: dict[str, str]
    words: list[str]


def lines_of(block: str) -> Iterator[str]:
    """Lines of a shell, those that go on joined."""
    yield from block.replace('\\\n', ' ').splitlines()


def commands_in(line: str, env: dict[str, str]) -> Iterator[tuple[dict[str, str], list[str]]]:
    """The commands of a line; ``export`` changes ``env`` for the lines after it."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars='&|;')
    lexer.whitespace_split, lexer.commenters = True, '#'
    words: list[str] = []
    for word in [*lexer, ';']:
        if set(word) <= set('&|;'):
            own = {}
            while words and re.match(r'\w+=', words[0]):
                name, _, value = words.pop(0).partition('=')
                own[name] = value
            if words[:1] == ['export']:
                env |= dict(word.split('=', 1) for word in words[1:])
            elif words:
                yield env | own, words
            words = []
        else:
            words.append(word)


def all_commands() -> Iterator[Command]:
    """Those of fenced blocks, and those within a line of text."""
    for path in PAGES:
        text, env = path.read_text(), {}
        page = path.relative_to(ROOT).as_posix()
        for language, block in FENCE.findall(text):
            for line in lines_of(block) if language == 'bash' else ():
                for now, words in commands_in(line, env):
                    yield Command(page, dict(now), words)
        for line in INLINE.findall(FENCE.sub('', text)):
            yield from (Command(page, now, words) for now, words in commands_in(line, {}))


# What is no tool of ours, by its first words, and who runs it.
OTHERS = {
    'bash tools/quickstart.sh': 'test_end_to_end.py, slow',
    'bash tools/run_tests.sh': 'CI runs it',
    'bash .ci/run': 'CI runs it',
    'python docs/build.py': 'CI runs it',
    'python3 -m venv': 'setup_venv.sh runs it',
    'python -m venv': 'setup_venv.sh runs it',
    'source .venv/bin/activate': 'setup_venv.sh runs it',
    'pip uninstall': 'setup_venv.sh runs it',
    'pip install': 'the extras are compared with pyproject.toml',
    'pip wheel': 'test_package.py builds one',
    'ruff': 'CI runs it',
    'mypy': 'CI runs it',
    'pre-commit install': 'for a clone with a remote',
    'python -m build': 'of a release',
    'module load': 'of a cluster',
    'head': 'of the system',
    'wait': 'of the shell',
    'hf upload': 'needs an account',
    'mim': 'needs the network, tried by hand',
    'omnimae --help': 'test_package.py',
    'python tests/coverage_fuzz.py': 'needs atheris',
    'python -m pytest': 'its file is looked for',
}
VALUES = {'NAME': 'in1k', 'DIR': 'x', 'EXPERIMENT': 'figure2'}


class ParsedError(Exception):
    """The words of a tool were understood."""


def parse(script: Path, words: list[str]) -> argparse.Namespace:
    """What a tool's own parser makes of its words; nothing of the tool is run after that."""
    original, found = argparse.ArgumentParser.parse_args, []

    def stop(self: argparse.ArgumentParser, args: Any = None, namespace: Any = None) -> None:
        found.append(original(self, args, namespace))
        raise ParsedError

    argv = [str(script), *(VALUES.get(word, word) for word in words)]
    places = [str(script.parent), *sys.path]
    with patch.object(argparse.ArgumentParser, 'parse_args', stop), patch.object(sys, 'argv', argv):
        # this process is to keep its own handlers of signals
        handlers = patch.multiple('omnimae.stopping', listen=DEFAULT, start_tool=DEFAULT)
        with patch.object(sys, 'path', places), handlers, pytest.raises(ParsedError):
            runpy.run_path(str(script), run_name='__main__')
    return found[0]


def tool_of(env: dict[str, str], words: list[str]) -> tuple[Path, list[str]] | None:
    """The script that a command comes to, with its words."""
    if words[0] == 'exec':
        words = words[1:]
    if words[0] == 'torchrun':
        words = words[words.index('-m') + 1 :]
    if words[0] == 'omnimae' and words[1] not in ('--help', '--version'):
        words = ['python', str(TOOLS / commands()[words[1]].name), *words[2:]]
    script = Path(words[1]) if len(words) > 1 else Path()
    kind = re.fullmatch(r'(dist|slurm)_(train|test)\.sh', script.name)
    if kind:
        rest = words[2:]
        rest = rest[2:] if kind[1] == 'slurm' else rest  # PARTITION JOB
        count = 1 if kind[2] == 'train' else 2  # CONFIG [CHECKPOINT]
        gpus = kind[1] == 'dist'
        assert not gpus or rest[count].isdigit()
        name = env.get('TOOL', f'{kind[2]}.py')
        return TOOLS / name, [*rest[:count], *rest[count + gpus :]]
    if script.suffix == '.py' and script.name not in ('coverage_fuzz.py', 'build.py'):
        return ROOT / script, words[2:]
    return None


@pytest.fixture
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith('OMNIMAE_')]:
        monkeypatch.delenv(name)


@pytest.mark.usefixtures('_own_environment')
def test_every_command_is_understood(monkeypatch: pytest.MonkeyPatch):
    """Tools parse their words and find the config, the options of which it takes; others are known."""
    listed = (ROOT / 'pyproject.toml').read_text().split('[project.optional-dependencies]')[1].split('[tool')[0]
    extras = re.findall(r'^(\w+) = ', listed, re.MULTILINE)
    done = set()
    for page, env, words in all_commands():
        if repr((env, words)) in done:
            continue
        done.add(repr((env, words)))
        told = f'{page}: {" ".join(words)}'
        tool = None if words[1:2] == ['-c'] else tool_of(env, words)
        if words[1:2] == ['-c']:
            compile(words[2], told, 'exec')
        elif tool is None:
            assert any(' '.join(words).startswith(start) for start in OTHERS), told
            named = re.findall(r'\[(.*?)\]', ' '.join(words)) if words[:2] == ['pip', 'install'] else []
            ours = [extra for group in named for extra in group.split(',')] if 'moto' not in told else []
            assert {*ours} <= {*extras}, told
            assert all((ROOT / word).exists() for word in words if word.startswith('tests/')), told
        if tool is None:
            continue
        try:
            args = parse(*tool)
        except SystemExit as error:
            pytest.fail(f'{told}: {error}')
        config, options = str(getattr(args, 'config', None) or 'NONE'), getattr(args, 'cfg_options', None)
        if config.partition('/')[0].isupper() or config.startswith(('my_', 'classifier', 'work_dirs/')):
            continue  # made by the reader
        find_config(config)  # test_configs.py loads them all
        if options:
            with monkeypatch.context() as patched:
                for name, value in env.items():
                    patched.setenv(name, value)
                load_config(config, options)
    assert len(done) > 100


# ---------------------------------------------------------------------------------------------------------------------
# Guides, run in small

CLASSES = ('cat', 'dog', 'owl')
WEIGHTS = {  # released or trained weights -> config of the small model that gives some
    'vitb_pretrain.torch': 'omnimae/vit-b_in1k-ssv2.py',
    'vitb_in1k_ft.torch': 'omnimae/finetune/vit-b_in1k.py',
    'epoch_1_raw.safetensors': 'multimae/finetune/vit-b_ade20k.py',
}


@pytest.fixture
def place(tmp_path: Path, _own_environment: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as a reader has it: tools, configs, own files, and weights in place of the released ones."""
    for name in ('tools', 'configs'):
        (tmp_path / name).symlink_to(ROOT / name)
    for label, name in enumerate(CLASSES):
        for split in ('train', 'val'):
            for number in range(8 if split == 'train' else 2):  # 20 of them vote in k-NN
                write_image(tmp_path / 'my/data/images' / split / name / f'{number}.jpg', label, number)
            write_video(tmp_path / 'my/data/videos' / split / name / '0.mp4', label, label)
        write_image(tmp_path / f'my/photos/{name}.jpg', label, 5)
        write_video(tmp_path / f'my/clips/{name}.mp4', label, label)
        for split in ('train', 'val'):
            write_image(tmp_path / f'my/maps/{split}/images/{name}.jpg', label, 6)
            path = tmp_path / f'my/maps/{split}/labels/{name}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            with Image.open(tmp_path / f'my/maps/{split}/images/{name}.jpg') as image:
                Image.new('L', image.size, label % 2).save(path)
    for name, target in dict(photos='my/photos', clips='my/clips').items():
        (tmp_path / name).symlink_to(tmp_path / target)
    (tmp_path / 'cat.jpg').symlink_to(tmp_path / 'my/photos/cat.jpg')
    (tmp_path / 'run.mp4').symlink_to(tmp_path / 'my/clips/cat.mp4')
    monkeypatch.setenv('STAND_INS', str(tmp_path))
    for name, config in WEIGHTS.items():
        with DefaultScope.overwrite_default_scope('omnimae'):
            model = MODELS.build(shrink(load_config(ROOT / 'configs' / config)).model)
        save_file(model.state_dict(), tmp_path / name, {})
    return tmp_path


# What a page leaves open, of a tool or of all.
OPEN = {
    ('predict_maps.py', 'CONFIG'): 'multimae/finetune/vit-b_ade20k',
    ('predict_maps.py', 'CHECKPOINT'): 'epoch_1_raw.safetensors',
    ('visualize_reconstruction.py', 'CONFIG'): 'configs/custom/pretrain.py',
    ('get_flops.py', 'CONFIG'): 'configs/custom/pretrain.py',
    ('browse_dataset.py', 'CONFIG'): 'configs/custom/finetune.py',
    ('extract_features.py', 'CONFIG'): 'configs/custom/knn_images.py',
    ('plan.py', 'CONFIG'): 'configs/custom/finetune.py',
    ('plan.py', '8'): '4',  # GPUs: they divide the global batch size, which is small here
    ('', 'CHECKPOINT'): 'vitb_pretrain.torch',
}
# they choose a small model by themselves
CHOOSE = {'pretrain.py': ('--epochs', '1'), 'finetune.py': ('--epochs', '1')}
SEGMENTED = 'work_dirs/custom/segmentation/epoch_1_raw.safetensors'


def run_page(page: str, place: Path, wanted: str = '') -> None:
    """Run the blocks of a page, one after the other: Python, and the commands of tools that match ``wanted``."""
    env: dict[str, str] = {}
    for number, (language, block) in enumerate(FENCE.findall((ROOT / page).read_text())):
        block = as_here(block, place)
        settings = dict(cwd=place, output=place / 'said' / str(number))
        if 'omnimae.pretrain(' in block:
            block = re.sub(r'(omnimae\.(?:pretrain|finetune)\(.*)\)', r'\1, epochs=1)', block)
            command(exec, block, env=environment(**env), **settings)
        elif language == 'python' and not block.startswith('_base_'):
            command(run_text, block, env=environment(**env), **settings)
        for line in lines_of(block) if language == 'bash' else ():
            for now, words in commands_in(line, env):
                text = ' '.join(words)
                if not re.match(r'python tools/|omnimae (pretrain|finetune|predict) ', text) or not re.search(
                    wanted, text
                ):
                    continue  # test_every_command_is_understood has them all
                script, words = tool_of(now, words)
                words = [OPEN.get((script.name, word), OPEN.get(('', word), word)) for word in words]
                if 'configs/custom/segmentation.py' in words and script.name == 'predict_maps.py':
                    words[1] = SEGMENTED
                if script.name in CHOOSE or 'classifier' in words:
                    command(script, *words, *CHOOSE.get(script.name, ()), env=environment(**now), **settings)
                else:
                    command(run_tool, script, *words, env=environment(**now), **settings)


# The steps from labelled images to predictions; the others take a minute.
SHORT = r'^omnimae|finetune_images|knn_images.py /|score\.py'


@pytest.mark.parametrize(
    'wanted', [pytest.param(SHORT, id='images'), pytest.param('', id='all', marks=pytest.mark.slow)]
)
def test_from_a_folder_to_a_classifier(place: Path, wanted: str):
    run_page('docs/own_data.md', place, wanted)
    assert len((place / 'predictions.csv').read_text().splitlines()) == 1 + len(CLASSES)


@pytest.mark.slow
@pytest.mark.parametrize(
    ('page', 'wanted'),
    [
        ('README.md', 'plan|browse|visualize|predict_maps|extract|get_flops|knn_images'),
        ('docs/python.md', ''),
        ('docs/cost.md', 'plan'),
        ('docs/troubleshooting.md', 'browse'),
    ],
)
def test_blocks_of_other_pages_run(place: Path, page: str, wanted: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv('OMNIMAE_LABELLED', str(place / 'my/data'))
    torch.save(dict(state_dict=dict(x=torch.zeros(1))), place / 'theirs.pth')
    run_page(page, place, wanted)
