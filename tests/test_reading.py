"""Files that cannot be read in validation, tests and feature extraction: left out where that is no other number."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_faults import PLACES, dying, load_tool
from test_frozen import KNN, ONLINE, WATCHED
from tiny_run import CLASSIFY, COUNTED, PRETRAIN, RECONSTRUCTED, build_runner, write_config, write_data

from omnimae.checkpoint import load_file, save_file
from omnimae.data.datasets import collate_clips
from omnimae.engine import extraction, reading
from omnimae.evaluation import ReconstructionLoss, load_features
from omnimae.models import FrozenBackbone
from omnimae.registry import DATASETS


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_data(tmp_path / 'data', num_pictures=8, num_movies=2)


def cut(path: Path) -> Path:
    """Break a file as a full disk or a copy that was stopped does."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def listed(work: Path) -> list[str]:
    return sorted(line.split('\t')[0] for line in (work / 'broken_files.txt').read_text().splitlines())


def log_of(work: Path) -> str:
    return ''.join(path.read_text() for path in work.rglob('*.log'))


@pytest.fixture
def losses(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """The loss of each sample of the last validation."""
    found: dict[str, float] = {}
    process = ReconstructionLoss.process

    def note(self, data_batch, data_samples):
        found.update(zip(data_batch['ids'], (float(sample['loss']) for sample in data_samples), strict=True))
        process(self, data_batch, data_samples)

    monkeypatch.setattr(ReconstructionLoss, 'process', note)
    return found


def test_a_broken_file_is_left_out_of_a_validation_loss_and_the_others_count_as_before(data, tmp_path, losses):
    runner = build_runner(write_config(tmp_path / 'c.py', PRETRAIN, data, RECONSTRUCTED), tmp_path / 'work')
    whole = runner.val()
    before = dict(losses)
    broken = [cut(data / 'pictures' / 'b' / '3.png'), cut(data / 'movies' / '1.mp4')]
    losses.clear()
    found = runner.val()
    assert losses == {key: value for key, value in before.items() if key not in ('b/3.png', '1.mp4')}
    images = [value for key, value in losses.items() if key.endswith('png')]
    assert found == {'reconstruction/image': np.mean(images), 'reconstruction/video': before['0.mp4']}
    assert found['reconstruction/image'] != whole['reconstruction/image']
    assert listed(tmp_path / 'work') == sorted(map(str, broken))
    assert 'val_dataloader: 2 of 10 samples cannot be read, first ' in log_of(tmp_path / 'work')


def test_a_run_that_validates_on_its_training_files_goes_on_without_the_broken_ones(data, tmp_path):
    """They are found before training; the pictures that the run draws are of others."""
    more = RECONSTRUCTED + "custom_hooks = [dict(type='ReconstructionHook', interval=1, num_samples=1)]\n"
    broken = [cut(data / 'pictures' / 'a' / '0.png'), cut(data / 'movies' / '0.mp4')]
    runner = build_runner(write_config(tmp_path / 'c.py', PRETRAIN, data, more), tmp_path / 'work')
    runner.train()
    log = log_of(tmp_path / 'work')
    assert log.index('val_dataloader: opened all 10 samples before training') < log.index('Epoch(train)')
    assert listed(tmp_path / 'work') == sorted(map(str, broken))
    assert {'val/reconstruction/image', 'val/reconstruction/video'} <= runner.message_hub.log_scalars.keys()
    assert len([*(tmp_path / 'work' / 'reconstructions').iterdir()]) == 4
    # listed files are left out from the start, by the same words as in training
    options = {
        f'val_dataloader.dataset.sources.{name}.skip': str(tmp_path / 'work' / 'broken_files.txt')
        for name in ('pictures', 'movies')
    }
    again = build_runner(tmp_path / 'c.py', tmp_path / 'again', options)
    assert len(again.val_dataloader) == 8
    again.val()
    assert not (tmp_path / 'again' / 'broken_files.txt').exists()


def test_where_labels_are_counted_a_broken_file_is_an_error_before_training_that_says_how_to_go_on(data, tmp_path):
    config = write_config(tmp_path / 'c.py', CLASSIFY, data, COUNTED)
    broken = [str(cut(data / 'pictures' / 'b' / f'{number}.png')) for number in (3, 5)]
    key, file = 'val_dataloader.dataset.sources.pictures.skip', tmp_path / 'work' / 'broken_files.txt'
    runner = build_runner(config, tmp_path / 'work')
    message = (
        r'val_dataloader: 2 of 8 samples cannot be read, first .*ClipAccuracy .*leave them out: the same command and '
        rf'--resume --cfg-options {key}={file}$'
    )
    with pytest.raises(ValueError, match=message):
        runner.train()
    assert runner.iter == 0
    assert listed(tmp_path / 'work') == broken
    runner = build_runner(config, tmp_path / 'work', {key: str(file), 'train_cfg.max_epochs': 1})
    runner.train()
    right = runner.message_hub.get_scalar('val/accuracy/top1').current() * 6 / 100
    assert right == pytest.approx(round(right))  # of six samples


def test_of_many_validation_files_some_are_opened(data, tmp_path):
    config = write_config(tmp_path / 'c.py', PRETRAIN, data, RECONSTRUCTED)
    runner = build_runner(config, tmp_path / 'work')
    batches = reading.Readable(runner, runner.val_dataloader, 'val_dataloader', None)
    batches.open_some(0.0)
    assert 'val_dataloader: opened 1 of 10 samples before training' in log_of(tmp_path / 'work')


def test_a_rank_without_broken_files_ends_with_the_others(data, tmp_path, monkeypatch):
    """What they know is put together before anything is raised; a rank that raised alone would leave the others."""
    config = write_config(tmp_path / 'c.py', CLASSIFY, data)
    runner = build_runner(config, tmp_path / 'work')
    other = ([('pictures', '/there/9.png', 'cut')], 3, 4)
    monkeypatch.setattr(reading, 'all_gather_object', lambda own: [own, other])
    with pytest.raises(
        ValueError, match=r'test_dataloader: 1 of 12 samples cannot be read, first /there/9\.png \(cut\)'
    ):
        runner.test()


@pytest.mark.parametrize(
    ('more', 'source'),
    [('', 'test_dataloader'), (KNN, 'test_cfg.bank_dataloader')],
    ids=['test', 'bank'],
)
def test_tests_name_all_broken_files_at_once_and_go_on_without_those_in_skip(data, tmp_path, more, source):
    config = write_config(tmp_path / 'c.py', CLASSIFY, data, more)
    if more:
        data = write_data(tmp_path / 'bank', num_pictures=8, num_movies=0)
    root = {f'{source}.dataset.sources.pictures.root': str(data / 'pictures')}
    broken = [str(cut(data / 'pictures' / 'a' / f'{number}.png')) for number in (0, 6)]
    key, file = f'{source}.dataset.sources.pictures.skip', tmp_path / 'work' / 'broken_files.txt'
    with pytest.raises(
        ValueError,
        match=rf'{source}: 2 of 8 samples .*out: the same command and --cfg-options {key}={file}',
    ):
        build_runner(config, tmp_path / 'work', root).test()
    assert listed(tmp_path / 'work') == broken
    out = {'test_evaluator.out_file': str(tmp_path / 'scores.npz')}
    build_runner(config, tmp_path / 'work', {**root, **out, key: str(file)}).test()
    with np.load(tmp_path / 'scores.npz') as scores:
        assert len(scores['ids']) == (8 if more else 6)


def test_knn_during_pretraining_is_of_the_files_that_can_be_read(data, tmp_path):
    broken = str(cut(data / 'pictures' / 'a' / '2.png'))
    config = write_config(tmp_path / 'c.py', PRETRAIN, data, WATCHED + ONLINE)
    build_runner(config, tmp_path / 'work', {'train_cfg.max_epochs': 1, 'param_scheduler': None}).train()
    log = log_of(tmp_path / 'work')
    assert 'Epoch 1: knn/top1: 100.0000' in log  # seven samples, each its own nearest
    assert 'custom_hooks.1.bank_dataloader: 1 of 8 samples cannot be read' in log
    assert listed(tmp_path / 'work') == [broken]


def test_nothing_that_can_be_read_is_an_error(data, tmp_path):
    for path in [*data.rglob('*.png'), *data.rglob('*.mp4')]:
        cut(path)
    config = write_config(tmp_path / 'c.py', PRETRAIN, data, RECONSTRUCTED)
    with pytest.raises(ValueError, match=r'val_dataloader: 10 of 10 samples cannot be read.*Nothing is left'):
        build_runner(config, tmp_path / 'work').val()
    skip = {'val_dataloader.dataset.sources': dict(pictures=dict(skip=str(tmp_path / 'work' / 'broken_files.txt')))}
    with pytest.raises(ValueError, match='skip leaves out all samples'):
        build_runner(
            config,
            tmp_path / 'work',
            skip
            | {
                'val_dataloader.dataset.sources.movies.skip': skip['val_dataloader.dataset.sources']['pictures']['skip']
            },
        ).val()


@PLACES
def test_a_worker_that_dies_in_an_evaluation_names_its_file(iterating, data, tmp_path, monkeypatch):
    config = write_config(tmp_path / 'c.py', CLASSIFY, data)
    options = dying('/5.png', iterating, monkeypatch, tmp_path)
    options |= {'test_dataloader.num_workers': 1, 'test_dataloader.batch_size': 4}
    options['test_dataloader.dataset.sources.pictures.type'] = 'FatalImages'
    key, file = 'test_dataloader.dataset.sources.NAME.skip', tmp_path / 'work' / 'broken_files.txt'
    with pytest.raises(
        RuntimeError, match=rf'(?s)worker died .*/b/5\.png\. .*now: the same command and --cfg-options {key}={file}'
    ):
        build_runner(config, tmp_path / 'work', options).test()
    build_runner(config, tmp_path / 'work', {**options, key.replace('NAME', 'pictures'): str(file)}).test()


def write_kinds(root: Path) -> dict[str, tuple[dict, Path]]:
    """Two samples of each kind of data, and a file of the second one."""
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (4, 24, 24, 3), np.uint8)
    for name in ('0', '1'):
        for folder in ('frames', 'aligned/rgb', 'aligned/depth', 'clips/rgb', 'clips/depth'):
            (root / folder / (name if folder == 'frames' else '')).mkdir(parents=True, exist_ok=True)
        for number, picture in enumerate(pictures, start=1):
            Image.fromarray(picture).save(root / 'frames' / name / f'img_{number:05}.jpg')
        Image.fromarray(pictures[0]).save(root / 'aligned' / 'rgb' / f'{name}.png')
        Image.fromarray(pictures[0, ..., 0]).save(root / 'aligned' / 'depth' / f'{name}.png')
        movie = write_data(root / f'made{name}', num_pictures=1, num_movies=1) / 'movies' / '0.mp4'
        movie.rename(root / 'clips' / 'rgb' / f'{name}.mp4')
        np.save(root / 'clips' / 'depth' / f'{name}.npy', rng.integers(0, 9, (12, 48, 64), np.int32))
    (root / 'frames.txt').write_text('0 4 0\n1 4 0\n')
    crop, two = [dict(type='CenterCrop', size=16)], dict(rgb=dict(), depth=dict())
    video = dict(type='VideoDataset', root=str(root / 'clips' / 'rgb'), num_frames=2, clip_seconds=0.5)
    frames = dict(type='FrameDataset', root=str(root / 'frames'), ann_file=str(root / 'frames.txt'), frame_rate=4)
    clips = dict(type='AlignedVideoDataset', root=str(root / 'clips'), num_frames=2, clip_seconds=0.5, modalities=two)
    aligned = dict(type='AlignedDataset', root=str(root / 'aligned'), modalities=two)
    kinds = {
        'views': (dict(video, num_clips=3), root / 'clips' / 'rgb' / '1.mp4'),
        'decord': (dict(video, reader='decord'), root / 'clips' / 'rgb' / '1.mp4'),
        'frames': (dict(frames, num_frames=4, clip_seconds=1.0), root / 'frames' / '1' / 'img_00002.jpg'),
        'aligned': (aligned, root / 'aligned' / 'depth' / '1.png'),
        'dense': (dict(aligned, target='depth'), root / 'aligned' / 'depth' / '1.png'),
        'maps of videos': (clips, root / 'clips' / 'depth' / '1.npy'),
    }
    return {kind: (dict(source, transforms=crop), path) for kind, (source, path) in kinds.items()}


@pytest.mark.parametrize('damage', [cut, Path.unlink, lambda path: path.write_bytes(b'')], ids=['cut', 'gone', 'empty'])
def test_every_kind_of_data_leaves_a_broken_sample_out_and_skips_it_when_told(tmp_path, damage):
    for kind, (source, path) in write_kinds(tmp_path).items():
        mixture = DATASETS.build(dict(type='MixedDataset', sources={'own': source}))
        assert len(collate_clips([mixture[0], mixture[1]])['ids']) == 2, kind
        content = path.read_bytes()
        damage(path)
        samples = [mixture[0], mixture[1]]
        batch = collate_clips(samples)
        assert ([name for name in batch['ids']], batch['source']) == ([samples[0]['id']], 'own'), kind
        [(failed, reason)] = batch['failures']
        assert (failed, bool(reason)) == (str(path), True), kind
        assert not collate_clips(samples[1:])['ids'], kind
        path.write_bytes(content)
        (tmp_path / 'skip.txt').write_text(f'{path}\t{reason}\n')
        mixture = DATASETS.build(
            dict(type='MixedDataset', sources={'own': dict(source, skip=str(tmp_path / 'skip.txt'))})
        )
        assert mixture.skipped_rows() == [1], kind


# ---------------------------------------------------------------------------------------------------------------------
# Features in files


@pytest.fixture
def weights(data: Path, tmp_path: Path) -> Path:
    torch.manual_seed(0)
    runner = build_runner(write_config(tmp_path / 'model.py', CLASSIFY, data), tmp_path / 'model')
    save_file(runner.model.state_dict(), tmp_path / 'weights.safetensors', {})
    return tmp_path / 'weights.safetensors'


class Extraction:
    """``extract_features.py`` in this process, three samples a shard; it counts the batches it computes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, config: Path, weights: Path, work: Path) -> None:
        self.words = [config, weights, '--work-dir', work, '--cfg-options', 'test_dataloader.batch_size=2']
        self.tool, self.batches, self.killed_at = load_tool('extract_features'), 0, -1
        monkeypatch.setattr(extraction, 'SHARD_SIZE', 3)
        monkeypatch.setattr(self.tool, 'write_features', partial(extraction.write_features, shard_size=3))
        features = FrozenBackbone.features

        def compute(model: FrozenBackbone, clip: torch.Tensor) -> torch.Tensor:
            if self.batches == self.killed_at:
                raise KeyboardInterrupt
            self.batches += 1
            return features(model, clip)

        monkeypatch.setattr(FrozenBackbone, 'features', compute)

    def __call__(self, out: Path, *more: str, killed_at: int = -1) -> int:
        """Extract, until that batch; return how many batches were computed."""
        self.batches, self.killed_at = 0, killed_at
        self.tool.main([str(word) for word in (*self.words, *more, '--out', out)])
        return self.batches


@pytest.fixture
def extracting(data, tmp_path, weights, monkeypatch) -> Extraction:
    # a name of its own: MMEngine has one logger for all runs of one name and second
    config = write_config(tmp_path / f'{tmp_path.name}.py', CLASSIFY, data)
    return Extraction(monkeypatch, config, weights, tmp_path / 'work')


@pytest.mark.parametrize('out', ['features.npz', 'features'])
def test_features_that_were_killed_go_on_where_they_stopped_and_are_the_same(extracting, tmp_path, out):
    """Eight samples are shards of 3, 3 and 2; batches of 2 are cut at shards: 2, 1 | 2, 1 | 2."""
    assert extracting(tmp_path / 'whole.npz') == 5
    whole = load_features(tmp_path / 'whole.npz')
    assert whole.ids.tolist() == [f'{"ab"[i % 2]}/{i}.png' for i in (0, 2, 4, 6, 1, 3, 5, 7)]
    with pytest.raises(KeyboardInterrupt):
        extracting(tmp_path / out, killed_at=3)
    folder = tmp_path / (out + '.parts' if out.endswith('.npz') else out)
    assert sorted(path.name for path in folder.glob('[!.]*')) == ['features_000000.npz', 'index.json']
    with pytest.raises(ValueError, match=r'does not hold all features: its index\.json lists no shards\. Run'):
        load_features(folder)
    assert extracting(tmp_path / out) == 3
    stored = load_features(tmp_path / out)
    for ours, theirs in zip(stored, whole, strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == theirs.dtype
    if out.endswith('.npz'):
        assert not folder.exists()
    else:
        assert extracting(tmp_path / out) == 0  # there is nothing left to do
        assert not [*folder.glob('.*')]


def test_two_extractions_into_one_place_are_refused(extracting, tmp_path):
    """The second would remove what the first is writing."""
    folder = tmp_path / 'out.npz.parts'
    folder.mkdir()
    program = 'import fcntl, sys; file = open(sys.argv[1], "w"); fcntl.lockf(file, fcntl.LOCK_EX); '
    program += 'file.write("process 7 on n1"); file.flush(); print(flush=True); input()'
    command = [sys.executable, '-c', program, folder / '.lock']
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        other.stdout.readline()
        with pytest.raises(ValueError, match='parts is in use by another run: process 7 on n1. Wait .* by --out'):
            extracting(tmp_path / 'out.npz')
        other.communicate('\n')
    assert extracting(tmp_path / 'out.npz') == 5
    assert not folder.exists()


def test_features_of_something_else_are_not_mixed_in(extracting, tmp_path):
    extracting(tmp_path / 'out')
    weights = tmp_path / 'weights.safetensors'
    changed = {key: value + 1 for key, value in load_file(weights)[0].items()}
    save_file(changed, weights, {})
    with pytest.raises(ValueError, match=r'out has features of other weights\. Give another --out, or .* --overwrite'):
        extracting(tmp_path / 'out')
    (tmp_path / 'data' / 'pictures' / 'a' / '0.png').rename(tmp_path / 'data' / 'pictures' / 'a' / '00.png')
    with pytest.raises(ValueError, match=r'out has features of other weights and data\. Give'):
        extracting(tmp_path / 'out')
    assert extracting(tmp_path / 'out', '--overwrite') == 5
    (tmp_path / 'out' / 'index.json').unlink()
    with pytest.raises(ValueError, match='out has features of other weights and model and precision and data'):
        extracting(tmp_path / 'out')


def test_features_go_on_with_the_same_list_of_what_to_skip(extracting, data, tmp_path):
    """Each sample that is skipped moves those after it to other places in the shards."""
    skipped = tmp_path / 'skipped.txt'
    skipped.write_text(f'{data}/pictures/a/0.png\n')
    options = ['--cfg-options', f'test_dataloader.dataset.sources.pictures.skip={skipped}']
    with pytest.raises(KeyboardInterrupt):
        extracting(tmp_path / 'out', *options, killed_at=3)
    skipped.write_text(f'{data}/pictures/a/0.png\n{data}/pictures/a/2.png\n')
    with pytest.raises(ValueError, match=r'out has features of other data\. Give'):
        extracting(tmp_path / 'out', *options)


def test_features_are_of_the_files_that_can_be_read(extracting, data, tmp_path):
    """A whole shard is broken, and one file of another."""
    broken = [str(cut(data / 'pictures' / 'a' / f'{number}.png')) for number in (0, 2, 4)]
    broken.append(str(cut(data / 'pictures' / 'b' / '7.png')))
    for out in ('one.npz', 'folder'):
        extracting(tmp_path / out)
        stored = load_features(tmp_path / out)
        assert stored.ids.tolist() == ['a/6.png', 'b/1.png', 'b/3.png', 'b/5.png']
        assert (stored.labels.tolist(), stored.features.shape) == ([0, 1, 1, 1], (4, 24))
    assert listed(tmp_path / 'work') == broken
    assert '4 files could not be read and are left out' in log_of(tmp_path / 'work')
    skip = f'test_dataloader.dataset.sources.pictures.skip={tmp_path / "work" / "broken_files.txt"}'
    assert extracting(tmp_path / 'without.npz', '--cfg-options', skip) == 3  # 2, 1 | 1
    assert load_features(tmp_path / 'without.npz').ids.tolist() == stored.ids.tolist()


def test_ranks_share_the_shards_and_any_number_of_them_goes_on(extracting, tmp_path, monkeypatch):
    """Rank 1 of two was killed before its only shard; then one rank goes on."""
    extracting(tmp_path / 'whole.npz')
    monkeypatch.setattr(extraction, 'get_world_size', lambda: 2)
    with pytest.raises(ValueError, match=r'out lacks 1 of 3 shards, first features_000001\.npz\. Machines without'):
        extracting(tmp_path / 'out')
    monkeypatch.undo()
    extracting.tool.write_features = partial(extraction.write_features, shard_size=99)  # theirs counts
    extracting(tmp_path / 'out')
    for ours, theirs in zip(load_features(tmp_path / 'out'), load_features(tmp_path / 'whole.npz'), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize('umask', [0o022, 0o027])
def test_the_umask_says_who_may_read_what_is_written(extracting, data, tmp_path, umask):
    before = os.umask(umask)
    try:
        extracting(tmp_path / 'out' / 'features.npz')
        extracting(tmp_path / 'out' / 'folder')
        runner = build_runner(extracting.words[0], tmp_path / 'out' / 'run', {'train_cfg.max_epochs': 1})
        runner.train()
    finally:
        os.umask(before)
    written = [path for path in (tmp_path / 'out').rglob('*') if path.is_file()]
    assert {path.suffix for path in written} >= {'.npz', '.json', '.pth', '.safetensors', '.log', '.py'}
    assert {oct(path.stat().st_mode & 0o777) for path in written} == {oct(0o666 & ~umask)}
