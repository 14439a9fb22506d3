"""Any input, drawn by hypothesis: lists, frame times, grids and ratios, checkpoints with something wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from test_checkpoint import tiny_autoencoder, tiny_classifier, videomae_file
from test_mae import image_backbone, mae_file
from tiny_models import GENERATORS

from omnimae.checkpoint import export, load_weights, save_file, translate
from omnimae.checkpoint.layouts import KERNEL
from omnimae.data.annotations import read_list
from omnimae.data.media.frames import SAME_TIME, pick_frames, test_starts, train_start
from omnimae.registry import MODELS
from omnimae.structures import Grid

EXTENSIONS = ['.mp4', '.webm']


def attempt(function: Callable, *args: Any, **kwargs: Any) -> tuple[Any, str]:
    """What a function returns, and the message of its ValueError, the only error that it may raise."""
    try:
        return function(*args, **kwargs), ''
    except ValueError as error:
        return None, str(error)


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp('fuzz')


# ---------------------------------------------------------------------------------------------------------------------
# Lists

WORDS = st.text(st.characters(codec='utf-8', exclude_categories=('Cc', 'Z')), min_size=1, max_size=8)
LINES = st.lists(
    st.one_of(
        st.text(max_size=40),
        st.builds('{} {}'.format, WORDS.map(lambda word: word + '.mp4'), st.integers(-2, 9)),
        st.builds('a.webm {} {} {}'.format, st.floats(), st.floats(), st.integers(0, 9)),
        st.sampled_from(['', '../a.mp4 1', 'a.mp4 id=b', '.mp4', 'a.mp4 1 2 id=', '\ufeffa.mp4']),
    ),
    max_size=6,
)


@given(LINES)
def test_a_list_is_read_or_refused_by_its_name(folder: Path, lines: list[str]):
    path = folder / 'list.txt'
    path.write_text('\n'.join(lines), encoding='utf-8', newline='')
    rows, refusal = attempt(read_list, str(path), EXTENSIONS, classes=['cat', 'a dog'])
    if rows is None:
        assert 'list.txt' in refusal
        return
    text = '\n'.join(lines)
    assert rows.paths
    assert all(name in text and name.lower().endswith(tuple(EXTENSIONS)) for name in rows.paths)
    assert not any(name.startswith(('/', '../')) for name in rows.paths)
    assert rows.labels is None or len(rows.labels) == len(rows.paths)
    assert rows.spans is None or all(0 <= start < stop for start, stop in rows.spans)
    assert len({*(rows.ids or rows.paths)}) == len(rows.paths)


@given(st.lists(st.tuples(WORDS, st.integers(0, 9)), min_size=1, unique_by=lambda row: row[0]))
def test_what_was_written_is_read(folder: Path, rows: list[tuple[str, int]]):
    path = folder / 'list.txt'
    assume(not any('.mp4' in name.lower() or '.webm' in name.lower() or '/' in name for name, _ in rows))
    path.write_text(''.join(f'{name}.mp4 {label}\n' for name, label in rows), encoding='utf-8')
    read = read_list(str(path), EXTENSIONS)
    assert (read.paths, [*read.labels]) == ([f'{name}.mp4' for name, _ in rows], [label for _, label in rows])


# ---------------------------------------------------------------------------------------------------------------------
# Frames

SECONDS = st.floats(0, 1e6)


@given(
    st.lists(SECONDS, min_size=1, max_size=50, unique=True).map(sorted),
    SECONDS,
    st.floats(1e-3, 1e4),
    st.integers(1, 64),
)
def test_frames_are_those_of_the_clip_in_order(times: list[float], start: float, seconds: float, num_frames: int):
    # closer ones count as the same moment
    assume(all(time == end or abs(time - end) > SAME_TIME for time in times for end in (start, start + seconds)))
    indices = pick_frames(times, start, seconds, num_frames)
    assert indices.shape == (num_frames,)
    assert (np.diff(indices) >= 0).all()
    assert (indices >= 0).all()
    inside = [i for i, time in enumerate(times) if start <= time < start + seconds]
    if inside:
        assert {*indices.tolist()} <= {*inside}
        assert indices[0] == inside[0]
        assert num_frames == 1 or indices[-1] == inside[-1]
        assert len({*indices.tolist()}) == min(len(inside), num_frames)
    else:
        assert {*indices.tolist()} == {max(sum(time < start for time in times) - 1, 0)}


@given(SECONDS, SECONDS, st.floats(0, 1, exclude_max=True), st.integers(1, 20), st.booleans())
def test_clips_lie_within_the_video(duration: float, seconds: float, u: float, num_clips: int, to_end: bool):
    starts = [train_start(duration, seconds, u), *test_starts(duration, seconds, num_clips, to_end=to_end)]
    assert all(0 <= start <= max(duration - seconds, 0) for start in starts)


# ---------------------------------------------------------------------------------------------------------------------
# Masks


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from(GENERATORS),
    st.sampled_from(['hidden', 'visible']),
    st.builds(Grid, st.integers(1, 9), st.integers(1, 9), st.integers(1, 9)),
    st.floats(0, 1, exclude_min=True, exclude_max=True),
    st.integers(1, 4),
)
def test_masks_split_any_grid_or_say_why_not(
    generator: str, round_down: str, grid: Grid, ratio: float, batch_size: int
):
    masking = MODELS.build(dict(type=generator, ratio=ratio, round_down=round_down))
    hidden, refusal = attempt(masking.num_hidden, grid)
    if hidden is None:
        assert f'ratio={ratio}' in refusal
        assert 'after rounding' in refusal
        return
    step = {'TubeMasking': grid.t, 'PerFrameMasking': grid.t, 'FrameMasking': grid.h * grid.w}.get(generator, 1)
    rest = hidden - ratio * grid.num_tokens
    assert -step < rest <= 0 if round_down == 'hidden' else -1e-9 < rest <= step
    assert hidden > 0
    masks = masking(batch_size, grid, 'cpu')
    assert masks.decode.shape == (batch_size, hidden)
    both = torch.cat([masks.visible, masks.decode], 1).sort(1).values
    assert torch.equal(both, torch.arange(grid.num_tokens).expand(batch_size, -1))


# ---------------------------------------------------------------------------------------------------------------------
# Checkpoints


def tiny_model():
    backbone = dict(
        type='SpatioTemporalViT', embed_dim=16, depth=2, num_heads=2, patch_size=(2, 8, 8), clip_size=(4, 16, 16)
    )
    return MODELS.build(dict(type='Classifier', backbone=backbone, num_classes=3))


STATE = tiny_model().state_dict()


@settings(max_examples=60)
@given(st.sampled_from(sorted(STATE)), st.sampled_from(['missing', 'renamed', 'reshaped', 'longer']))
def test_a_checkpoint_with_one_wrong_key_is_refused_by_its_name(folder: Path, key: str, crime: str):
    state = dict(STATE)
    value = state.pop(key)
    if crime == 'renamed':
        state[key.replace('.', '_', 1)] = value
    elif crime == 'reshaped':
        state[key] = value[None]
    elif crime == 'longer':
        state[key] = torch.cat([value, value])
    path = folder / 'model.safetensors'
    save_file(state, path, {})
    model = tiny_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    report, refusal = attempt(load_weights, model, path, complete=True)
    if report is not None:
        assert (crime, key) == ('missing', 'backbone.pos_embed')  # made, not learned
        return
    assert 'model.safetensors' in refusal
    assert key in refusal or key.rpartition('.')[0] in refusal or 'layout' in refusal
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)  # nothing is half loaded


# a file of each published kind; what anybody may have done to one
FOREIGN = {'timm': mae_file(), 'omnimae': export(tiny_autoencoder().state_dict()), 'videomae': videomae_file()}
CRIMES: dict[str, Callable[[dict[str, torch.Tensor], str], object]] = {
    'missing': lambda state, key: state.pop(key),
    'renamed': lambda state, key: state.update({f'{key}.weight': state.pop(key)}),
    'prefixed': lambda state, key: state.update({f'module.{key}': state.pop(key)}),
    'flattened': lambda state, key: state.update({key: state[key].flatten()}),
    'reshaped': lambda state, key: state.update({key: state[key][None]}),
    'emptied': lambda state, key: state.update({key: state[key].flatten()[:0]}),
}


@settings(deadline=None)
@given(
    st.sampled_from(sorted(FOREIGN)),
    st.lists(st.tuples(st.sampled_from(sorted(CRIMES)), st.integers(0, 999)), max_size=4),
    st.booleans(),
)
def test_a_foreign_file_is_loaded_or_refused(layout: str, crimes: list[tuple[str, int]], told: bool):
    state = dict(FOREIGN[layout])
    for crime, number in crimes:
        CRIMES[crime](state, sorted(state)[number % len(state)])
    converted, refusal = attempt(translate, state, layout if told else None)
    if converted is None:
        assert crimes
        assert 'layout' in refusal or any(key in refusal for key in state)
    else:
        ours, left = converted
        assert KERNEL in ours
        assert not left
    images = dict(type='Classifier', backbone=image_backbone(), num_classes=5)
    model = MODELS.build(images) if layout == 'timm' else tiny_classifier()
    with TemporaryDirectory() as folder:
        file = Path(folder, 'file.safetensors')
        save_file(state, file, {})
        report, refusal = attempt(load_weights, model, file)
    assert report is not None or file.name in refusal
    assert report is not None or crimes
