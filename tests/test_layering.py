"""Imports point one way, checkpoints stay data, and broken packages stay out: read from the sources, nothing is run."""

from __future__ import annotations

import ast
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ('omnimae', 'tools', 'configs', 'examples', 'benchmarks', 'tests')
SOURCES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob('*.py'))

# Room of the package -> the other rooms it may import. Who adds a room says here what it rests on.
FLOOR = {'registry', 'structures'}
ALLOWED = {
    'registry': set(),
    'structures': set(),
    'stopping': set(),
    'meeting': set(),
    'models': FLOOR,
    'data': FLOOR | {'stopping'},  # a storage that is away stops a run
    'synthetic': FLOOR | {'data'},  # a made data set says where its files are, as one that is distributed
    'evaluation': FLOOR,
    'checkpoint': FLOOR | {'stopping'},  # its errors advise commands
    'visualization': FLOOR,
    'flops': FLOOR,
    'planning': FLOOR | {'flops', 'models'},  # what its layers do on CPUs alone
    'fitting': set(),
    'consistency': FLOOR | {'fitting'},
    'checking': FLOOR | {'consistency', 'fitting'},
    'options': set(),
    'config': FLOOR | {'checking', 'fitting', 'options', 'zoo'},
    'utils': set(),
    'zoo': set(),
    'openmmlab': FLOOR | {'models', 'data'},
    '__main__': {'stopping'},
    # its hooks export weights, draw pictures and count neighbours
    'engine': FLOOR | {'checkpoint', 'config', 'fitting', 'visualization', 'evaluation', 'stopping', 'meeting'},
    'inputs': FLOOR | {'data'},
    'commands': FLOOR | {'config', 'data', 'engine'},
    # features as the frozen evaluation defines them
    'own_data': FLOOR | {'checkpoint', 'commands', 'config', 'data', 'engine', 'planning', 'stopping', 'zoo'},
    'predictions': FLOOR | {'apis', 'checkpoint', 'inputs'},
    'deployment': FLOOR | {'apis', 'engine', 'inputs'},
    'apis': FLOOR | {'checkpoint', 'config', 'consistency', 'data', 'engine', 'inputs', 'visualization', 'zoo'},
}
ASSEMBLED = ('omnimae/models/mae.py', 'omnimae/models/classifier.py')  # their parts come from the registry


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding='utf-8'), str(path))


def imported(tree: ast.Module, module: str, is_package: bool = False) -> set[str]:
    """Return every module that is imported anywhere in the file, by its full name; ``from a import b`` gives a.b."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = module.split('.')[: len(module.split('.')) - node.level + is_package] if node.level else []
            origin = '.'.join([*parents, *([node.module] if node.module else [])])
            names |= {f'{origin}.{alias.name}' for alias in node.names}
    return names


def imports_of(path: Path) -> set[str]:
    parts = path.relative_to(ROOT).with_suffix('').parts
    is_package = parts[-1] == '__init__'
    return imported(tree_of(path), '.'.join(parts[:-1] if is_package else parts), is_package)


def rooms(names: set[str]) -> set[str]:
    return {name.split('.')[1] for name in names if name.startswith('omnimae.')}


def test_imported_sees_every_form():
    source = (
        'import omnimae.data.video\n'
        'def later():\n'
        '    from omnimae import engine\n'
        '    from omnimae.registry import MODELS\n'
        'from .vit import Block\n'
        'from . import masking\n'
        'from ..data import datasets\n'
    )
    assert imported(ast.parse(source), 'omnimae.models.mae') == {
        'omnimae.data.video',
        'omnimae.engine',
        'omnimae.registry.MODELS',
        'omnimae.models.vit.Block',
        'omnimae.models.masking',
        'omnimae.data.datasets',
    }
    assert imported(ast.parse('from .vit import Block'), 'omnimae.models', True) == {'omnimae.models.vit.Block'}


PACKAGE = [path for path in SOURCES if path.parts[len(ROOT.parts)] == 'omnimae']


@pytest.mark.parametrize('path', PACKAGE, ids=lambda path: str(path.relative_to(ROOT)))
def test_rooms_import_one_way(path):
    room = path.relative_to(ROOT / 'omnimae').parts[0].removesuffix('.py')
    if room == '__init__':
        assert not rooms(imports_of(path)), 'import omnimae stays cheap'
        return
    assert room in ALLOWED, f'{room} is a new room: say in ALLOWED what it may import'
    assert rooms(imports_of(path)) - {room} <= ALLOWED[room]


def test_allowed_directions_have_no_circle():
    def below(room: str, above: tuple[str, ...] = ()) -> None:
        assert room not in above, ' -> '.join([*above, room])
        for lower in ALLOWED[room]:
            below(lower, (*above, room))

    for room in ALLOWED:
        below(room)


@pytest.mark.parametrize('name', ASSEMBLED)
def test_models_get_their_parts_from_the_registry(name):
    shared = {f'omnimae.models.backbone.{part}' for part in ('build_backbone', 'ClipClassifier')}
    assert rooms(imports_of(ROOT / name) - shared) <= FLOOR


def test_package_imports_nothing_that_is_not_installed_with_it():
    outside = {'tools', 'configs', 'examples', 'benchmarks', 'tests'}
    for path in PACKAGE:
        assert not {name.split('.')[0] for name in imports_of(path)} & outside, path


def test_nobody_imports_the_broken_models_of_mmaction():
    """Watch for mmaction.models: the wheel of MMAction2 1.2.0 lacks one of its modules (mmaction2#2714)."""
    for path in SOURCES:
        assert not [name for name in imports_of(path) if f'{name}.'.startswith('mmaction.models.')], path


TOOLS = [path for path in SOURCES if path.parent == ROOT / 'tools']


@pytest.mark.parametrize('path', TOOLS, ids=lambda path: path.name)
def test_tools_handle_signals_before_they_import_more(path):
    """Their imports take seconds, in which Ctrl-C would be answered by a traceback."""
    body = tree_of(path).body
    calls = [{ast.unparse(call.func) for call in ast.walk(node) if isinstance(call, ast.Call)} for node in body]
    begin = next(number for number, names in enumerate(calls) if names & {'start_tool', 'listen'})
    before = {name for name in imported(ast.Module(body[:begin], []), '') if not name.startswith('omnimae.stopping')}
    assert {name.split('.')[0] for name in before} <= sys.stdlib_module_names


def unsafe_loads(tree: ast.Module) -> list[int]:
    """Return lines that may run code from a file: torch.load without weights_only=True, or the way round it."""
    lines = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node.value == 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD':
            lines.append(node.lineno)
        if not isinstance(node, ast.Call):
            continue
        safe = [word.value for word in node.keywords if word.arg == 'weights_only']
        if any(not (isinstance(value, ast.Constant) and value.value is True) for value in safe):
            lines.append(node.lineno)
        elif ast.unparse(node.func) == 'torch.load' and not safe:
            lines.append(node.lineno)
    return lines


def test_checkpoints_are_data():
    this = Path(__file__)
    assert {str(path): lines for path in SOURCES if path != this and (lines := unsafe_loads(tree_of(path)))} == {}


@pytest.mark.parametrize(
    ('source', 'unsafe'),
    [
        ('torch.load(f, weights_only=True)', False),
        ('torch.load(f)', True),
        ('torch.load(f, weights_only=False)', True),
        ('load(f, weights_only=safe)', True),
        ("os.environ['TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'] = '1'", True),
    ],
)
def test_unsafe_loads_are_seen(source, unsafe):
    assert bool(unsafe_loads(ast.parse(source))) == unsafe
