"""Fixtures that several test files share."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Set up the process, unless pytest-xdist runs the tests in others: that one need not import PyTorch.

    GPUs are hidden from all tests but those marked ``gpu``: they compare numbers of the CPU, and so do their programs.
    """
    if config.option.markexpr != 'gpu':
        os.environ['CUDA_VISIBLE_DEVICES'] = ''
    # The models of tests are too small for threads; programs that tests start inherit that.
    os.environ['OMP_NUM_THREADS'] = '1'
    os.environ['WANDB_MODE'] = 'disabled'  # whoever runs them may be logged in
    if config.getoption('dist', 'no') == 'no':
        _set_up()


def _set_up() -> None:
    import torch
    from hypothesis import settings

    from omnimae.engine.compat import apply_patches

    torch.set_num_threads(1)
    # Every CPU evaluates in float32, also one with units for bfloat16.
    torch.cpu._is_avx512_bf16_supported = torch.cpu._is_amx_tile_supported = lambda: False
    apply_patches()  # as in every tool
    # The same examples on every run, however slow the machine.
    settings.register_profile('repeatable', deadline=None, derandomize=True)
    settings.load_profile('repeatable')


# Files of a minute and more. Two processes share the files; a long one that began last would keep one of them waiting.
LONG = (
    'test_configs.py',
    'test_faults.py',
    'test_distributed.py',
    'test_methods_demo.py',
    'test_compiling.py',
    'test_end_to_end.py',
    'test_reproduce.py',
    'test_cluster.py',
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the long files."""
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))


@pytest.fixture(scope='session')
def demo_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest demo data with all motions: 3 training and 2 validation videos a place, and maps.

    All processes of pytest-xdist share them; the first one makes them.
    """
    from omnimae.synthetic.demo import make_demo, make_maps

    base = tmp_path_factory.getbasetemp()
    root = (base.parent if 'PYTEST_XDIST_WORKER' in os.environ else base) / 'data' / 'demo'
    root.parent.mkdir(exist_ok=True)
    with (root.parent / 'lock').open('w') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        make_demo(root, size=3, workers=2)
        if not (root / 'depth').exists():
            make_maps(root)
    return root


@pytest.fixture(scope='session')
def few_root(demo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo data with videos of two photographs alone to validate on: runs spend their time on decoding videos."""
    root = tmp_path_factory.mktemp('few') / 'demo'
    shutil.copytree(demo_root, root, copy_function=os.link)
    for path in root.rglob('val.txt'):
        lines = path.read_text().splitlines(keepends=True)
        path.unlink()  # it is that of the whole data
        path.write_text(''.join(line for line in lines if line.startswith(('camera_', 'chelsea_'))))
    return root


@pytest.fixture(scope='session')
def quarter_root(few_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`few_root` with less to train on: an image and a video of each place."""
    root = tmp_path_factory.mktemp('quarter') / 'demo'
    shutil.copytree(few_root, root, copy_function=os.link)
    for path in root.rglob('images/train/*/*'):
        if path.stem >= '00001':
            path.unlink()
    for path in root.rglob('train.txt'):
        lines = path.read_text().splitlines(keepends=True)
        path.unlink()  # it is that of the whole data
        path.write_text(''.join(line for line in lines if '/00000_' in line))
    return root


@pytest.fixture(autouse=True)
def _gradients() -> Iterator[None]:
    """A tool that runs in this process must not switch gradients off for what follows."""
    import torch

    yield
    assert torch.is_grad_enabled()
