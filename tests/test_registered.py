"""What is registered is tested by being registered: mask generators, backbones, layouts, sources and readers of data.

No component is known by its name. An argument without default gets the value that `ARGUMENTS` has for its name; who
registers a component with another argument adds it there. Those of `examples/` take part.
"""

from __future__ import annotations

import inspect
import pickle
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from mmengine.registry import DefaultScope
from PIL import Image
from tiny_models import PRETRAINING, model_config
from tiny_run import write_data
from torch import Tensor

from omnimae.checkpoint import LAYOUTS, convert, export
from omnimae.data.media import READERS, open_video
from omnimae.data.media.frames import SAMPLINGS
from omnimae.registry import DATASETS, MODELS
from omnimae.structures import Address, Backbone, Grid, Sample, gather_tokens

ROOT = Path(__file__).parents[1]
RANDOM = dict(type='RandomMasking', ratio=0.5)
ARGUMENTS: dict[str, Any] = dict(
    # of mask generators
    ratio=0.5,
    rows=2,
    encoder=dict(RANDOM, ratio=0.75),
    decoder=RANDOM,
    # of backbones
    embed_dim=24,
    depth=2,
    dims=(8, 16, 24),
    depths=(1, 2, 1),
    # of sources
    num_frames=4,
    frame_rate=10.0,
    ann_file='',  # of the files that the test makes
    modalities=dict(rgb={}),
)
SMALL = dict(num_heads=dict(depth=2, dims=(1, 2, 2)), patch_size=(2, 8, 8), clip_size=(4, 32, 64))  # have defaults


def registered() -> Iterator[tuple[str, type]]:
    """What the package and the examples register: not what other tests do, nor wrappers of other packages' sources."""
    modules = ['omnimae']
    for module in sorted((ROOT / 'examples').glob('*/*.py')):
        if 'register_module' in module.read_text():
            sys.path.append(str(module.parent))
            modules.append(import_module(module.stem).__name__)
    for registry in (MODELS, DATASETS):
        registry.import_from_location()
        for name, kind in sorted(registry.module_dict.items()):
            if kind.__module__.split('.')[0] in modules and kind.__module__ != 'omnimae.openmmlab':
                yield name, kind


COMPONENTS = {name: kind for name, kind in registered() if inspect.isclass(kind)}
MASKS = {name: kind for name, kind in COMPONENTS.items() if hasattr(kind, 'num_hidden')}
SOURCES = {name: kind for name, kind in COMPONENTS.items() if hasattr(kind, 'modality')}
METHODS = [name for name, x in vars(Backbone).items() if inspect.isfunction(x) and not name.startswith('_')]
BACKBONES = {
    name: kind
    for name, kind in COMPONENTS.items()
    if all(hasattr(kind, method) for method in METHODS) and 'tokenizers' not in inspect.signature(kind).parameters
}


@pytest.fixture(autouse=True)
def _scope():
    with DefaultScope.overwrite_default_scope('omnimae'):
        yield


def parameters(kind: type) -> dict[str, inspect.Parameter]:
    """The arguments of a class and of those that it hands the rest to."""
    found: dict[str, inspect.Parameter] = {}
    for base in kind.__mro__:
        if '__init__' in vars(base):
            own = inspect.signature(vars(base)['__init__']).parameters
            found = {**own, **found}
            if not any(x.kind is x.VAR_KEYWORD for x in own.values()):
                break
    return {name: x for name, x in found.items() if x.kind is x.KEYWORD_ONLY}


def arguments(kind: type, **given: Any) -> dict[str, Any]:
    """Those without default."""
    needed = [name for name, x in parameters(kind).items() if x.default is x.empty and name not in given]
    if unknown := [name for name in needed if name not in ARGUMENTS]:
        pytest.fail(f'{kind.__name__} needs {unknown}: add a value to ARGUMENTS.')
    return {**given, **{name: ARGUMENTS[name] for name in needed}}


def test_there_are_some_of_each():
    assert len(MASKS) >= 9
    assert len(SOURCES) >= 6
    assert len(BACKBONES) >= 3
    assert len(READERS) >= 2


@pytest.mark.parametrize('name', MASKS)
@settings(max_examples=15)
@given(t=st.integers(1, 3), h=st.integers(2, 4), w=st.integers(2, 4), seed=st.integers(0, 2**31))
def test_masks_hide_as_many_as_they_say(name, t, h, w, seed):
    generator = MASKS[name](**arguments(MASKS[name]))
    grid = Grid(t, 2 * h, 2 * w)
    try:
        num_hidden = generator.num_hidden(grid)
    except ValueError:  # one slice is not half hidden
        assume(False)
    torch.manual_seed(seed)
    masks = generator(3, grid, 'cpu')
    visible, decode, scored = masks
    assert visible.dtype == decode.dtype == torch.int64
    assert visible.shape == (3, grid.num_tokens - num_hidden)
    for row in (*visible, *decode):
        assert len(row.unique()) == len(row)
        assert 0 <= row.min() <= row.max() < grid.num_tokens
    is_visible = torch.zeros(3, grid.num_tokens, dtype=torch.bool).scatter(1, visible, True)
    of_decode = is_visible.gather(1, decode)
    if scored is None:
        assert decode.shape[1] == num_hidden
        assert not of_decode.any()
    else:
        assert torch.equal(scored, ~of_decode)  # nobody is scored for what it sees
    torch.manual_seed(seed)
    for one, other in zip(masks, generator(3, grid, 'cpu'), strict=True):
        assert one is other is None or torch.equal(one, other)


@pytest.mark.parametrize('name', BACKBONES)
def test_backbones_keep_the_protocol(name):
    """Tokens know their places, not their order; layers are numbered from the stem on; maps have the clip's shape."""
    kind, own = BACKBONES[name], parameters(BACKBONES[name])
    sizes = {key: value for key, value in ARGUMENTS.items() if key in own}
    sizes |= {key: value for key, value in SMALL.items() if key in own}
    if 'num_heads' in sizes:
        sizes['num_heads'] = sizes['num_heads']['dims' if 'dims' in own else 'depth']
    torch.manual_seed(0)
    backbone = kind(**sizes).eval()
    extra, dim, depth = backbone.num_extra_tokens, backbone.embed_dim, backbone.num_layers
    assert isinstance(backbone.grid, Grid)
    for frames in (1, backbone.grid.clip_size(backbone.patch_size)[0]):
        clip = torch.randn(2, 3, frames, *backbone.grid.clip_size(backbone.patch_size)[1:])
        patches, grid = backbone.patchify(clip)
        assert torch.equal(patches, backbone.patchify(clip)[0])
        assert grid == Grid.of(clip.shape[2:], backbone.patch_size)
        assert patches.shape[:2] == (2, grid.num_tokens)
        assert patches.shape[2] == clip[0].numel() // grid.num_tokens
        whole = backbone.encode(patches, grid)
        assert whole.shape == (2, extra + grid.num_tokens, dim)
        order = torch.stack([torch.randperm(grid.num_tokens) for _ in range(2)])
        shuffled = backbone.encode(gather_tokens(patches, order), grid, order)
        torch.testing.assert_close(shuffled[:, extra:], gather_tokens(whole[:, extra:], order), rtol=1e-4, atol=1e-5)
        other = backbone.encode(gather_tokens(patches, order), grid, order.roll(1, 1))
        assert not torch.allclose(other, shuffled, atol=1e-3)  # a token that is told another place is another one
        assert backbone.pooled(clip).shape == (2, dim)
        maps = backbone.feature_maps({'rgb': clip}, range(depth), ['rgb'])
        dims = getattr(backbone, 'layer_dims', [dim] * depth)
        for x, width in zip(maps, dims, strict=True):
            assert x.shape[:3] == (2, width, grid.t)
            assert x.shape[3] / grid.h == x.shape[4] / grid.w == x.shape[3] // grid.h
        assert x.shape[2:] == grid
    layers = [backbone.layer_of(key) for key, _ in backbone.named_parameters()]
    assert {*range(depth + 1)} <= {*layers} <= {*range(depth + 2)}


@pytest.fixture(scope='module')
def models() -> list[dict[str, Tensor]]:
    """Random weights of small models of all methods, and of classifiers with their backbones."""
    with DefaultScope.overwrite_default_scope('omnimae'):
        configs = [model_config(method) for method in PRETRAINING if method != 'multimae_video']
        configs.append({**model_config('mae'), 'head': model_config('cross')['head']})
        configs += [
            {**cfg, 'head': {**cfg['head'], 'cls_token': False}} for cfg in configs if 'cls_token' in cfg['head']
        ]
        backbones = [cfg['backbone'] for cfg in configs if 'tokenizers' not in cfg['backbone']]
        configs += [dict(type='Classifier', backbone=backbone, num_classes=3) for backbone in backbones[:-1]]
        return [MODELS.build(cfg).state_dict() for cfg in configs]


@pytest.mark.parametrize('name', LAYOUTS)
def test_weights_come_back_from_each_layout(name, models):
    """Its name is found. Fixed positions are in no file, and biases of keys, which have no effect, not in every one."""
    fits = 0
    for state in models:
        positions = {key: x for key, x in state.items() if key.endswith('pos_embed')}
        torch.manual_seed(0)
        state = {key: x if key in positions else torch.randn_like(x) for key, x in state.items()}
        try:
            theirs = export(state, name, positions=positions)
        except ValueError:  # it is for other models
            continue
        fits += 1
        again = convert(theirs)
        assert state.keys() - positions.keys() <= again.keys() <= state.keys()
        for key, x in again.items():
            if key.endswith('qkv.bias'):
                parts = zip(x.chunk(3), state[key].chunk(3), strict=True)
                assert [torch.equal(*part) for part in parts][::2] == [True, True]
            else:
                assert torch.equal(x, state[key]), key
    assert fits, f'{name} holds no model of tests/tiny_models.py. Add one there.'


@pytest.fixture(scope='module')
def files(tmp_path_factory) -> Path:
    """A folder of each kind of files; a source takes the one whose files it can read."""
    root = write_data(tmp_path_factory.mktemp('files') / 'made', num_pictures=3, num_movies=2)
    for name in ('arrays', 'frames', 'modalities/rgb'):
        (root / name).mkdir(parents=True)
    for path in [*(root / 'pictures').rglob('*.png'), *(root / 'movies').iterdir()]:
        (root / 'modalities' / 'rgb' / path.name).write_bytes(path.read_bytes())
    for name in ('one', 'two'):
        np.save(root / 'arrays' / f'{name}.npy', np.full((6, 40, 48, 3), len(name), np.uint8))
        (root / 'frames' / name).mkdir()
        for number in range(1, 9):
            Image.new('RGB', (48, 40), (number, 0, 0)).save(root / 'frames' / name / f'img_{number:05}.jpg')
    (root / 'frames' / 'frames.txt').write_text('one 8 0\ntwo 8 1\n')
    return root


def root_of(kind: type, files: Path) -> Path:
    """The folder for a source."""
    needed = [name for name, x in parameters(kind).items() if x.default is x.empty]
    if 'ann_file' in needed:
        return files / 'frames'
    if 'modalities' in needed:
        return files / 'modalities'
    kinds = dict(pictures='.png', movies='.mp4', arrays='.npy')
    return next(files / name for name, extension in kinds.items() if extension in kind.default_extensions)


@pytest.mark.parametrize('name', SOURCES)
def test_a_sample_follows_from_its_address(name, files, monkeypatch):
    """In any process, as often as it is read; it is what a `Sample` says."""
    kind = SOURCES[name]
    root = root_of(kind, files)
    monkeypatch.setitem(ARGUMENTS, 'ann_file', str(root / 'frames.txt'))
    short = dict(num_frames=4, clip_seconds=0.4)
    given = dict(root=str(root)) | {key: value for key, value in short.items() if key in parameters(kind)}
    training, tested = (
        kind(**arguments(kind, **given, replicas=replicas, transforms=[dict(type=crop, size=16)]))
        for replicas, crop in ((2, 'RandomResizedCrop'), (1, 'CenterCrop'))
    )
    assert len(training) == len(tested) > 1
    assert training.replicas == 2
    length = {'image': 1, 'video': 4}[training.modality]
    elsewhere = pickle.loads(pickle.dumps(training))
    for row in range(len(training)):
        sample = training[Address(0, row, 7)]
        assert {*sample} <= {*Sample.__annotations__}
        assert (sample['modality'], sample['failures']) == (training.modality, [])
        for key, clip in clips_of(sample).items():
            assert clip.shape[0] == 2
            assert clip.shape[2:] == (length, 16, 16)
            for other in (training, elsewhere):
                assert torch.equal(clips_of(other[Address(0, row, 7)])[key], clip)
        one, other = (clips_of(tested[row]) for _ in range(2))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)


def clips_of(sample: Any) -> dict[str, Tensor]:
    """By modality."""
    return sample['clips']


@pytest.mark.parametrize('reader', READERS)
def test_readers_give_the_frames_that_are_asked_for(reader, files):
    """12 frames, 10 a second."""
    path = str(files / 'movies' / '0.mp4')
    with open_video(path, reader) as video:
        assert video.duration == pytest.approx(1.2, abs=0.11)
        whole = video.read(0.0, 1.2, 12)
        assert (whole.shape, whole.dtype) == ((12, 48, 64, 3), np.uint8)
        assert np.array_equal(video.read_at([0.05 + i / 10 for i in range(12)]), whole)
        halves = video.read_clips([0.0, 0.6], 0.6, 6)
        assert np.array_equal(np.concatenate(halves), whole)


class ArrayReader:
    """All that a source asks of a reader, a `ClipReader`: here of an array, 10 frames a second."""

    frame_rate = 10.0

    def __init__(self, path: str, backend_args: dict | None = None):
        self.frames = np.load(path)
        self.duration = len(self.frames) / 10

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        pass

    def read_clips(self, starts, seconds, num_frames):
        return [self.read_at(start + (np.arange(num_frames) + 0.5) * seconds / num_frames) for start in starts]

    def frame_times(self, start, stop):
        times = np.arange(len(self.frames)) / self.frame_rate
        return times[(times >= start) & (times < stop)]

    def read_at(self, moments):
        return self.frames[np.clip(np.array(moments) * 10, 0, len(self.frames) - 1).astype(int)]


@pytest.mark.parametrize('sampling', SAMPLINGS)
def test_a_reader_from_outside_works_by_its_name(sampling, files, monkeypatch):
    monkeypatch.setitem(READERS, 'arrays', ArrayReader)
    root = str(files / 'arrays')
    cfg = dict(type='VideoDataset', root=root, reader='arrays', extensions=['.npy'], num_frames=4)
    stride = None if sampling in ('dense', 'sparse') else 1
    source = DATASETS.build(dict(cfg, sampling=sampling, stride=stride))
    for clip in (source[0]['clips']['rgb'][0], source[Address(0, 1, 3)]['clips']['rgb']):
        assert clip.shape == (1, 3, 4, 40, 48)
        assert clip.unique().tolist() == [3]


def test_a_reader_from_outside_reaches_workers_that_do_not_know_its_name(files, monkeypatch):
    """Those of ``multiprocessing_context='spawn'``: they import its module, and nobody registers it there."""
    monkeypatch.setitem(READERS, 'arrays', ArrayReader)
    cfg = dict(type='VideoDataset', root=str(files / 'arrays'), reader='arrays', extensions=['.npy'], num_frames=4)
    sent = pickle.dumps(DATASETS.build(cfg))
    monkeypatch.delitem(READERS, 'arrays')
    assert pickle.loads(sent)[0]['clips']['rgb'].unique().tolist() == [3]
