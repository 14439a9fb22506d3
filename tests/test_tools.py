"""The command-line tools, through their ``main``, on small files that the tests make and on real ones where named."""

from __future__ import annotations

import importlib.util
import io
import os
import re
import runpy
import sys
from pathlib import Path
from types import ModuleType

import av
import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image, ImageSequence

from omnimae.checkpoint import export, load_file, save_file
from omnimae.config import load_config
from omnimae.data.datasets import FileDataset
from omnimae.data.transforms import resize
from omnimae.registry import MODELS
from omnimae.structures import Address

ROOT = Path(__file__).parents[1]
SHARED_DATA = os.environ.get('OMNIMAE_SHARED_DATA')

MODEL = """
model = dict(
    type='MaskedAutoencoder',
    backbone=dict(
        type='SpatioTemporalViT', embed_dim=32, depth=1, num_heads=2, patch_size=(2, 16, 16), clip_size=(4, 48, 80)
    ),
    head=dict(type='MAEHead', embed_dim=32, depth=1, num_heads=2),
    mask_generator=dict(image=dict(type='RandomMasking', ratio=0.6), video=dict(type='RandomMasking', ratio=0.8)),
)
"""

LOADER = """
train_dataloader = dict(
    batch_size=8,
    num_workers=2,
    dataset=dict(
        type='MixedDataset',
        sources=dict(
            photos=dict(
                type='ImageDataset', root='{data}/photos', transforms=[dict(type='RandomResizedCrop', size=(48, 80))]
            ),
            clips=dict(
                type='VideoDataset',
                root='{data}/clips',
                replicas=4,
                clip_seconds=0.5,
                num_frames=4,
                transforms=[dict(type='RandomResizedCrop', size=(48, 80))],
            ),
        ),
    ),
    sampler=dict(type='MixedSampler'),
    batch_sampler=dict(type='MixedBatchSampler'),
    collate_fn=dict(type='collate_clips'),
)
"""

CLASSIFIER = """
default_scope = 'omnimae'
model = dict(type='Classifier', backbone=dict(type='SpatioTemporalViT', arch='small'), num_classes=10)
"""


def tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / 'tools' / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_video(path: Path, num_frames: int = 20) -> None:
    """Write a bright bar that moves over noise, 10 frames a second."""
    background = np.random.default_rng(0).integers(0, 200, (64, 96, 3), dtype=np.uint8)
    with av.open(str(path), 'w') as container:
        stream = container.add_stream('libx264', rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, 'yuv420p'
        for i in range(num_frames):
            frame = background.copy()
            frame[:, 4 * i : 4 * i + 8] = 230
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        container.mux(stream.encode(None))


@pytest.fixture
def data(tmp_path) -> Path:
    """Photographs in two classes, and videos."""
    photo = Image.fromarray(skimage.data.astronaut())
    for i, name in enumerate(['face/a.jpg', 'face/b.png', 'rocket/c.jpg', 'rocket/d.jpg', 'rocket/e.jpg']):
        path = tmp_path / 'data' / 'photos' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        photo.crop((40 * i, 20 * i, 40 * i + 200, 20 * i + 150)).save(path)
    (tmp_path / 'data' / 'clips').mkdir()
    for i in range(2):
        write_video(tmp_path / 'data' / 'clips' / f'bar_{i}.mp4', num_frames=20 - 5 * i)
    return tmp_path / 'data'


@pytest.fixture
def config(tmp_path, data) -> Path:
    path = tmp_path / 'tiny.py'
    path.write_text("default_scope = 'omnimae'\n" + MODEL + LOADER.format(data=data))
    return path


@pytest.fixture
def checkpoint(tmp_path, config) -> Path:
    save_file(MODELS.build(load_config(config).model).state_dict(), tmp_path / 'tiny.safetensors', {})
    return tmp_path / 'tiny.safetensors'


def contains(page: np.ndarray, panel: np.ndarray) -> bool:
    """Whether a panel stands somewhere on a page, pixel by pixel."""
    height, width = panel.shape[:2]
    corners = np.argwhere((page[: page.shape[0] - height + 1, : page.shape[1] - width + 1] == panel[0, 0]).all(-1))
    return any(np.array_equal(page[y : y + height, x : x + width], panel) for y, x in corners)


def enlarged(panel: np.ndarray, factor: int = 4) -> np.ndarray:
    return panel.repeat(factor, 0).repeat(factor, 1)


# ---------------------------------------------------------------------------------------------------------------------
# convert_checkpoint


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_convert_checkpoint(tmp_path, config, suffix, capsys):
    state = MODELS.build(load_config(config).model).state_dict()
    torch.save({'model': export(state), 'meta': {'classes': '["a"]'}}, tmp_path / 'released.torch')
    target = tmp_path / f'ours{suffix}'
    tool('convert_checkpoint').main([str(tmp_path / 'released.torch'), str(target)])
    converted, meta = load_file(target)
    assert set(converted) == set(state)
    assert all(torch.equal(converted[key], state[key]) for key in state)
    assert (meta['converted_from'], meta['classes']) == ('omnimae', '["a"]')
    assert f'(layout omnimae): {len(state)} tensors -> {target}' in capsys.readouterr().out


def test_convert_checkpoint_refuses(tmp_path, checkpoint):
    convert = tool('convert_checkpoint').main
    with pytest.raises(ValueError, match=r'is SRC, which would be overwritten'):
        convert([str(checkpoint), str(checkpoint)])
    with pytest.raises(ValueError, match=r'tiny\.safetensors: This state dict does not fit the layout .omnimae.'):
        convert([str(checkpoint), str(tmp_path / 'x.pth'), '--source', 'omnimae'])
    assert not (tmp_path / 'x.pth').exists()
    with pytest.raises(ValueError, match=r"x\.onnx ends in '\.onnx'\. Give a name that ends in one of \.safetensors"):
        convert([str(checkpoint), str(tmp_path / 'x.onnx')])


# ---------------------------------------------------------------------------------------------------------------------
# get_flops


@pytest.mark.parametrize(
    ('size', 'least'),
    [
        ('b', (5.9, 7.6)),
        pytest.param('l', (7.5, 11.4), marks=pytest.mark.slow),
        pytest.param('h', (7.5, 11.3), marks=pytest.mark.slow),
    ],
)
def test_get_flops_prints_the_savings_of_the_paper(size, least, capsys):
    tool('get_flops').main([str(ROOT / 'configs' / 'omnimae' / f'vit-{size}_in1k-ssv2.py')])
    out = capsys.readouterr().out
    assert 'all tokens       = encoder(N) + decoder(N, N, N)' in out
    for modality, reduction in zip(('image', 'video'), least, strict=True):
        printed = re.search(rf"{modality}, masked, the paper's rounding .* (\d+\.\d+)x", out)
        assert float(printed[1]) >= reduction


def test_get_flops_of_a_classifier(tmp_path, capsys):
    config = tmp_path / 'classifier.py'
    config.write_text(CLASSIFIER)
    tool('get_flops').main([str(config)])
    out = capsys.readouterr().out
    assert 'Classifier, 21.9 M parameters: width 384, 12 blocks' in out
    assert [tool('get_flops')._giga(x) for x in (0, 1.234e6, 9.99e7, 1e8, 4.57e9)] == [
        '0.00',
        '0.0012',
        '0.1',
        '0.10',
        '4.57',
    ]
    assert re.search(r'image, one view +196 / 196 +4\.57 ', out)  # 4.6 is published for ViT-S/16 with its class token


def test_get_flops_counts_the_classes_of_own_data(tmp_path, monkeypatch, capsys):
    for name in ('images', 'videos'):
        for label in 'abc':
            (tmp_path / name / 'train' / label).mkdir(parents=True)
            (tmp_path / name / 'train' / label / f'0.{dict(images="jpg", videos="mp4")[name]}').touch()
    monkeypatch.setenv('OMNIMAE_LABELLED', str(tmp_path))
    tool('get_flops').main([str(ROOT / 'configs' / 'custom' / 'finetune.py')])
    assert 'Classifier, 86.2 M parameters: width 768' in capsys.readouterr().out


# ---------------------------------------------------------------------------------------------------------------------
# browse_dataset


def test_browse_dataset_shows_what_the_loader_yields(config, tmp_path, monkeypatch):
    browse = tool('browse_dataset')
    seen = {}
    first_batches = browse.first_batches
    monkeypatch.setattr(browse, 'first_batches', lambda loader: seen.update(loader=loader) or first_batches(loader))
    browse.main([str(config), '--out-dir', str(tmp_path / 'pages')])
    assert sorted(path.name for path in (tmp_path / 'pages').iterdir()) == ['clips.png', 'photos.png']
    pages = {path.stem: np.asarray(Image.open(path)) for path in (tmp_path / 'pages').iterdir()}
    dataset = seen['loader'].dataset
    for addresses in seen['loader'].batch_sampler:
        assert isinstance(addresses[0], Address)
        page = pages[dataset.names[addresses[0].source]]
        for address in addresses:
            for clip in dataset[address]['clips']['rgb']:
                frames = clip.permute(1, 2, 3, 0).numpy()
                assert contains(page, enlarged(frames[0]))
                assert contains(page, enlarged(frames[-1]))


def test_browse_dataset_shows_a_source_that_knows_no_classes(config, tmp_path, monkeypatch):
    browse = tool('browse_dataset')
    init = FileDataset.__init__
    monkeypatch.setattr(
        FileDataset, '__init__', lambda self, *args, **kwargs: init(self, *args, **kwargs) or delattr(self, 'classes')
    )
    browse.main([str(config), '--out-dir', str(tmp_path / 'pages')])
    assert len(list((tmp_path / 'pages').iterdir())) == 2


ALIGNED = """
train_dataloader = dict(
    batch_size=2,
    dataset=dict(
        type='MixedDataset',
        sources=dict(
            rooms=dict(
                type='AlignedDataset',
                root='{root}',
                target='semseg',
                modalities=dict(rgb={{}}, depth={{}}, semseg=dict(kind='classes')),
                transforms=[dict(type='RandomCrop', size=64)],
            )
        ),
    ),
    sampler=dict(type='MixedSampler'),
    batch_sampler=dict(type='MixedBatchSampler'),
    collate_fn=dict(type='collate_clips'),
)
"""


def test_browse_dataset_shows_modalities_side_by_side(tmp_path):
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (64, 64, 3), np.uint8)
    depth = np.where(np.arange(64) < 32, 100, 900).astype(np.uint16)[None].repeat(64, 0)
    for folder, pixels in dict(rgb=rgb, depth=depth, semseg=np.full((64, 64), 255, np.uint8)).items():
        (tmp_path / folder).mkdir()
        for i in range(2):
            Image.fromarray(pixels).save(tmp_path / folder / f'{i}.png')
    config = tmp_path / 'aligned.py'
    config.write_text("default_scope = 'omnimae'\n" + ALIGNED.format(root=tmp_path))
    tool('browse_dataset').main([str(config), '--out-dir', str(tmp_path / 'pages')])
    page = np.asarray(Image.open(tmp_path / 'pages' / 'rooms.png'))
    greys = np.where(np.arange(64) < 32, 26, 255).astype(np.uint8)  # the least is not black, which says not known
    assert contains(page, enlarged(rgb, 3))
    assert contains(page, enlarged(greys[None, :, None].repeat(64, 0).repeat(3, 2), 3))
    assert contains(page, enlarged(np.zeros((64, 64, 3), np.uint8), 3))


def test_browse_dataset_needs_a_training_loader(tmp_path):
    (tmp_path / 'model_only.py').write_text("default_scope = 'omnimae'\n" + MODEL)
    with pytest.raises(ValueError, match=r'model_only\.py has no train_dataloader'):
        tool('browse_dataset').main([str(tmp_path / 'model_only.py'), '--out-dir', str(tmp_path)])


# ---------------------------------------------------------------------------------------------------------------------
# visualize_reconstruction


def test_visualize_reconstruction_of_a_folder(config, checkpoint, data, tmp_path, capsys):
    out = tmp_path / 'pictures'
    tool('visualize_reconstruction').main([str(config), str(checkpoint), str(data), '--out-dir', str(out)])
    names = ['images_1.png', *(f'clips/bar_{i}{end}' for i in range(2) for end in ('.gif', '_strip.png'))]
    assert sorted(str(path.relative_to(out)) for path in out.rglob('*.*')) == sorted(names)
    printed = capsys.readouterr().out
    assert all(name in printed for name in names)
    with Image.open(out / 'clips' / 'bar_0.gif') as gif:
        durations = [frame.info['duration'] for frame in ImageSequence.Iterator(gif)]
    assert durations == [120] * 4  # 0.5 s in 4 frames, in the hundredths that GIF counts in


def test_visualize_reconstruction_shows_the_middle_of_the_picture(config, checkpoint, tmp_path):
    photo = skimage.data.astronaut()[:240, :100]  # covers 48x80 at 192x80; the middle 48 rows are cut out
    Image.fromarray(photo).save(tmp_path / 'tall.png')
    tool('visualize_reconstruction').main(
        [str(config), str(checkpoint), str(tmp_path / 'tall.png'), '--out-dir', str(tmp_path / 'out')]
    )
    page = np.asarray(Image.open(tmp_path / 'out' / 'images_1.png'))
    expected = resize(photo[None], 192, 80, 'bicubic')[0, 72:120]
    assert contains(page, enlarged(expected))


def test_visualize_reconstruction_writes_mp4(config, checkpoint, data, tmp_path):
    inputs = [str(data / 'clips' / 'bar_0.mp4'), '--mp4', '--out-dir', str(tmp_path)]
    tool('visualize_reconstruction').main([str(config), str(checkpoint), *inputs])
    with av.open(str(tmp_path / 'bar_0.mp4')) as container:
        assert container.streams.video[0].codec_context.name == 'h264'
        assert len(list(container.decode(video=0))) == 4


def test_broken_files_are_named_and_the_others_drawn(config, checkpoint, data, tmp_path):
    for whole in (data / 'photos' / 'face' / 'a.jpg', data / 'clips' / 'bar_0.mp4'):
        content = whole.read_bytes()
        for name, broken in dict(zero=b'', text=b'not a picture', half=content[: len(content) // 2]).items():
            whole.with_stem(name).write_bytes(broken)
    arguments = [str(config), str(checkpoint), str(data), '--out-dir', str(tmp_path / 'out')]
    with pytest.raises(SystemExit, match='^6 of 13 files could not be read:') as exit_info:
        tool('visualize_reconstruction').main(arguments)
    message = str(exit_info.value)
    assert re.findall(r'(\w+)\.jpg: ', message) == re.findall(r'(\w+)\.mp4: ', message) == ['half', 'text', 'zero']
    assert 'text.jpg: not an image' in message
    assert len(list((tmp_path / 'out').rglob('*.*'))) == 1 + 2 * 2


def test_names_that_are_no_text_are_drawn_and_told(config, checkpoint, tmp_path, monkeypatch):
    (tmp_path / 'in').mkdir()
    Image.new('RGB', (40, 40)).save(tmp_path / 'in' / os.fsdecode(b'a\xff.png'))
    (tmp_path / 'in' / os.fsdecode(b'b\xff.gif')).write_bytes(b'nothing')
    script = str(Path(__file__).parents[1] / 'tools' / 'visualize_reconstruction.py')
    out = os.fsdecode(bytes(tmp_path) + b'/out\xff')
    monkeypatch.setattr('sys.argv', [script, str(config), str(checkpoint), str(tmp_path / 'in'), '--out-dir', out])
    monkeypatch.setattr('omnimae.stopping.start_tool', lambda *_: None)  # this process keeps its handlers of signals
    monkeypatch.setattr('sys.stdout', io.TextIOWrapper(io.BytesIO(), 'utf-8'))
    with pytest.raises(SystemExit, match='1 of 2 files could not be read'):
        runpy.run_path(script, run_name='__main__')
    sys.stdout.seek(0)
    assert sys.stdout.read().endswith('1 file in ' + str(tmp_path) + '/out\\udcff: images_1.png\n')


def test_visualize_reconstruction_refuses_early(config, checkpoint, data, tmp_path):
    visualize = tool('visualize_reconstruction').main
    end = ['--out-dir', str(tmp_path / 'out')]
    unread = str(tmp_path / 'unread.pth')  # inputs are looked at first
    Path(unread).touch()
    with pytest.raises(ValueError, match=r'nowhere\.jpg does not exist\. Give images'):
        visualize([str(config), unread, str(tmp_path / 'nowhere.jpg'), *end])
    with pytest.raises(ValueError, match=r'tiny\.py is neither image nor video\. Known are .*\.jpg.*\.mp4'):
        visualize([str(config), unread, str(config), *end])
    (tmp_path / 'bare').mkdir()
    with pytest.raises(ValueError, match=r"bare' holds no file that ends in .*; it holds nothing"):
        visualize([str(config), unread, str(tmp_path / 'bare'), *end])
    wide = tmp_path / 'wide.py'
    wide.write_text(config.read_text().replace('embed_dim=32', 'embed_dim=64'))
    with pytest.raises(ValueError, match=r'tiny\.safetensors does not fit the model'):
        visualize([str(wide), str(checkpoint), str(data), *end])
    classifier = tmp_path / 'classifier.py'
    classifier.write_text(CLASSIFIER)
    with pytest.raises(ValueError, match=r"model\.type='Classifier' reconstructs nothing"):
        visualize([str(classifier), str(checkpoint), str(data), *end])
    assert not (tmp_path / 'out').exists()


@pytest.mark.skipif(not SHARED_DATA, reason='set OMNIMAE_SHARED_DATA to a folder with images/ and clips/')
def test_visualize_reconstruction_of_real_files(config, checkpoint, tmp_path):
    shared = Path(SHARED_DATA)
    inputs = [*sorted((shared / 'images').iterdir())[:9], *sorted((shared / 'clips').iterdir())]
    arguments = [str(config), str(checkpoint), *map(str, inputs), '--out-dir', str(tmp_path / 'out')]
    tool('visualize_reconstruction').main(arguments)
    assert len(list((tmp_path / 'out').rglob('*.*'))) == 2 + 2 * (len(inputs) - 9)
