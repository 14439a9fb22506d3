"""From a folder to a table: what is chosen, the config that is written, and the mistakes of a first call."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from programs import TOOLS, command
from safetensors.torch import load_file
from tiny_benchmarks import write_image

import omnimae
from omnimae.config import load_config
from omnimae.data.annotations import read_list
from omnimae.engine.loops import EpochTrainLoop
from omnimae.own_data import SIZES, _expected, _labelled, _Schedule, _start, _text, fitting_size
from omnimae.planning import GIB
from omnimae.stopping import command_with

CONFIG = """\
_base_ = 'omnimae::custom/finetune_images.py'

work_dir = '{{ fileDirname }}'  # where this file is
model = dict(
    backbone=dict(arch='tiny', patch_size=(2, 32, 32)),
    num_classes=2,
    init_cfg=None,
    data_preprocessor=dict(mixing=None),
)
"""


def write_classes(folder: Path, *places: str, count: int = 2, empty: bool = True) -> Path:
    """``count`` files below each place. Where nothing reads them they are empty."""
    for label, place in enumerate(places):
        for number in range(count):
            path = folder / place / f'{number}.{"mp4" if "videos" in place else "jpg"}'
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch() if empty else write_image(path, label, number)
    return folder


def test_pretrain_and_what_finetune_makes_of_it(tmp_path, capsys, monkeypatch):
    data = write_classes(tmp_path / 'my data', 'cat', 'dog', empty=False)
    monkeypatch.chdir(tmp_path)
    assert omnimae.pretrain(images=data, out='pre', epochs=1) == Path('pre')
    with pytest.raises(ValueError, match='pre has a run, and its config.py differs from that of this call'):
        omnimae.pretrain(images=data, out='pre', epochs=2)
    calls = []
    monkeypatch.setattr('omnimae.own_data._run', lambda *args: calls.append(args))  # docs/own_data.md runs all three
    omnimae.finetune(data, 'run', checkpoint='pre', epochs=1)
    assert calls[0][1]['model']['init_cfg'] == dict(checkpoint=str(tmp_path / 'pre/epoch_1_raw.safetensors'))
    # a tiny pretraining is short: with a decay, its lower layers would hardly learn
    assert calls[0][1]['optim_wrapper']['paramwise_cfg'] == dict(layer_decay=1.0)
    said = capsys.readouterr().out
    assert 'arch: tiny. There is no GPU: this is a try. To change it: arch=base.' in said
    assert '\n  omnimae finetune DATA --checkpoint pre --out classifier\n' in said
    assert 'There is no val of images: 2 files are held out by their names, listed in val_images.txt.' in said


def test_an_unfinished_pretraining_is_told(tmp_path, capsys):
    run = tmp_path / 'pre'
    run.mkdir()
    text = "_base_ = 'omnimae::custom/pretrain_images.py'\ntrain_cfg = dict(max_epochs=800)\n"
    (run / 'config.py').write_text(text)
    for epoch, name in ((1, 'preempted.pth'), (800, 'epoch_800.pth')):
        torch.save(dict(state_dict=dict(x=torch.zeros(1)), meta=dict(epoch=epoch, iter=7)), run / name)
        (run / 'last_checkpoint').write_text(str(run / name))
        _start(run, 'auto')
        told = (
            f'{run} is unfinished: it has done 1 of 800 epochs (7 steps). Fine-tuning starts from its preempted.pth. '
            f'To finish it first: omnimae train {run}/config.py --resume'
        )
        assert (told in capsys.readouterr().out) == (epoch < 800)


@pytest.mark.parametrize('moment', ['step', 'validation'])
def test_the_steps_of_an_unfinished_pretraining_are_those_of_its_weights(tmp_path, capsys, monkeypatch, moment):
    data, run = write_classes(tmp_path / 'data', 'a', 'b', count=16, empty=False), tmp_path / 'run'
    method = 'run_iter' if moment == 'step' else '_validate_if_due'
    before, calls = getattr(EpochTrainLoop, method), []

    def stop_at_the_fifth(loop, *args):
        calls.append(loop.iter)
        if len(calls) == 5:
            os.kill(os.getpid(), signal.SIGINT)
        before(loop, *args)

    monkeypatch.setattr(EpochTrainLoop, method, stop_at_the_fifth)
    with pytest.raises(SystemExit, match='130'):
        omnimae.pretrain(images=data, out=run, epochs=10)
    steps = torch.load(run / 'preempted.pth', weights_only=True)['optimizer']['state'][0]['step']
    assert steps == calls[-1] + (moment == 'step')
    _start(run, 'auto')
    said = capsys.readouterr()
    assert f'unfinished: it has done {int(steps) // 2} of 10 epochs ({int(steps)} steps).' in said.out
    assert f'preempted.pth after {int(steps)} steps, the exit code is 130.' in said.out + said.err


def test_weights_that_cannot_be_downloaded_are_told(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr('omnimae.own_data._run', lambda *args: None)
    monkeypatch.setattr('torch.hub.download_url_to_file', raise_os_error)
    monkeypatch.setattr('omnimae.checkpoint.files.VARIABLES', {})  # this process has loaded no config yet
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'cache'))
    omnimae.finetune(write_classes(tmp_path / 'data', 'a', 'b'), tmp_path / 'run', arch='base', epochs=1)
    said = capsys.readouterr().out
    assert 'vitb_pretrain.torch: cannot be downloaded (no network). Download it elsewhere, and give its path' in said
    assert f'Or save it as {tmp_path}/cache/hub/checkpoints/vitb_pretrain-' in said


def raise_os_error(*_, **__):
    raise OSError('no network')


def test_the_config_is_small_and_continues(tmp_path, monkeypatch):
    data = write_classes(tmp_path / 'data', 'train/cat', 'train/dog', 'val/dog', empty=False)
    run = tmp_path / 'run'
    words = [data, '--out', run, '--arch', 'tiny', '--epochs', '2']
    said = command(TOOLS / 'finetune.py', *words, output=tmp_path / 'said')
    assert f'\n  omnimae test {run} --analyze {run}/errors\n' in said
    text = (run / 'config.py').read_text()
    assert re.sub('(?m)^# .*\n', '', text).startswith(CONFIG)
    assert len(text.splitlines()) < 70
    cfg = load_config(run / 'config.py')
    assert cfg.work_dir == str(run)
    assert cfg.train_dataloader.dataset.sources.images.root == str(data / 'train')
    # the second epoch again, from the written config: the same weights bit for bit
    first, weights = run / 'epoch_1.pth', load_file(run / 'epoch_2_raw.safetensors')
    for path in run.glob('epoch_2*'):
        path.unlink()
    (run / 'last_checkpoint').write_text(str(first))
    before = first.stat().st_mtime_ns
    command(TOOLS / 'train.py', run / 'config.py', '--resume', output=tmp_path / 'said')
    again = load_file(run / 'epoch_2_raw.safetensors')
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    assert first.stat().st_mtime_ns == before
    assert (run / 'config.py').read_text() == text  # not replaced by all that it inherits


def test_messages_of_a_run_advise_a_command_that_takes_resume(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data, said = write_classes(tmp_path / 'data', 'cat', 'dog'), []
    monkeypatch.setattr('omnimae.own_data.train', lambda *_, **__: said.append(command_with('--resume')))
    omnimae.pretrain(images=data, out='my run', epochs=1)
    assert [*said, command_with('--resume')] == [
        "omnimae train 'my run/config.py' --resume",
        'the same command and --resume',
    ]


def test_a_split_depends_on_names_alone(tmp_path):
    data = write_classes(tmp_path / 'a', 'cat', 'dog', count=10)
    lists = _labelled(data).lists
    assert [len(lists[f'{mode}_images.txt']) for mode in ('train', 'val')] == [16, 4]
    assert {line.split()[1] for line in lists['val_images.txt']} == {'cat', 'dog'}
    write_classes(data, 'emu', count=10)
    more = _labelled(data).lists
    assert {line for line in more['val_images.txt'] if 'emu' not in line} == set(lists['val_images.txt'])
    assert not {*more['train_images.txt']} & {*more['val_images.txt']}


@pytest.mark.parametrize(
    ('places', 'kinds'),
    [
        (('train/a', 'train/b', 'val/a'), ['images']),
        (
            ('images/train/a', 'images/train/b', 'images/valid/a', 'videos/train/b', 'videos/val/b'),
            ['images', 'videos'],
        ),
        (('a/videos', 'b/videos'), ['videos']),
        (('a/images', 'b/videos'), ['images', 'videos']),
        (('a/images', 'a/videos', 'b/images', 'b/videos'), ['images', 'videos']),
        (('images/a', 'images/b', 'videos/a', 'videos/b'), ['images', 'videos']),
        (('images/train/a', 'images/train/b', 'videos/a', 'videos/b'), ['images', 'videos']),
        (('images/a', 'images/b'), ['images']),
        # sub-folders of a class
        (('a/x', 'b/y'), ['images']),
        (('a', 'a/x', 'a/y', 'b', 'b/x', 'b/y'), ['images']),
        (('a/x', 'a/y', 'b'), ['images']),
        (('train/a/x', 'train/a/y', 'train/b/x', 'train/b/y'), ['images']),  # that level was given
        (('Train/a', 'Train/b', 'VAL/a'), ['images']),
        (('training_set/a', 'training_set/b'), ['images']),
    ],
)
def test_layouts(tmp_path, places, kinds, capsys):
    labelled = _labelled(write_classes(tmp_path, *places))
    assert [*labelled.rows] == kinds
    assert labelled.classes == ('a', 'b')
    assert sum(labelled.counts.values()) == 2 * len(places)
    assert 'passed over' not in capsys.readouterr().out


@pytest.mark.parametrize('name', ['train', 'val', 'test', 'images', 'videos', 'Test'])
def test_a_class_may_have_the_name_of_a_part_below_train(tmp_path, name):
    places = [f'{name}/{number}.jpg' for number in range(3)] + [f'cat/{number}.jpg' for number in range(3)]
    for place in places:
        for root in ('given', 'moved/train', 'kind/images/train'):
            (tmp_path / root / place).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / root / place).touch()
    message = f'{name!r} would be a class. .* If it is a class, move all classes into {tmp_path}/given/train.$'
    with pytest.raises(ValueError, match=message):
        _labelled(tmp_path / 'given')
    for root in ('moved', 'kind'):
        assert _labelled(tmp_path / root).counts == {name: 3, 'cat': 3}


def test_kinds_without_a_split_hold_files_out(tmp_path):
    labelled = _labelled(write_classes(tmp_path, 'images/a', 'images/b', 'videos/a', 'videos/b', count=5))
    assert {kind: source['root'] for kind, source in labelled.sources['val'].items()} == {
        kind: str(tmp_path / kind) for kind in ('images', 'videos')
    }
    lists = labelled.lists
    assert {*lists['train_videos.txt'], *lists['val_videos.txt']} == {
        f'{name}/{number}.mp4 {name}' for name in 'ab' for number in range(5)
    }
    assert len(lists['val_videos.txt']) == 2


def test_finetune_names_its_classes_and_what_it_passes_over(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr('omnimae.own_data._run', lambda *args: None)
    data = write_classes(tmp_path, 'images/a', 'images/b', 'videos/b', 'videos/c')
    (data / 'images/b/9.jpg').touch()
    (data / 'images/b/notes.txt').touch()
    (data / 'images/b/9.mp4').touch()
    omnimae.finetune(data, tmp_path / 'run')
    said = capsys.readouterr().out
    assert 'Files of each class: a 2, b 5, c 2.' in said
    assert 'files passed over: .mp4 1 (images/b/9.mp4), .txt 1.' in said
    assert 'Images and videos have different classes. Of images alone: a. Of videos alone: c. One classifier' in said
    omnimae.finetune(write_classes(tmp_path / 'many', *map(str, range(40))), tmp_path / 'run')
    said = capsys.readouterr().out
    assert ', 35 2, and 10 more classes.' in said
    assert 'different classes' not in said


@pytest.mark.parametrize(
    ('places', 'message'),
    [
        (('cat',), "has one class, 'cat', and a classifier needs two or more. Make a folder per class"),
        (('.',), 'is in no class folder. Move it into one, or elsewhere; known are DATA/train/'),
        (('train/a', 'train/b', 'val/c', 'val/d'), 'val has classes without training files: c, d. Add files to '),
        (('train/a', 'train/b', 'val/c'), 'data/train/c, or remove or rename '),
        (('train/big cat', 'train/b', 'val/Big_cats'), "Did you mean 'big cat', which has training files?"),
        (('train/aeroplane', 'train/b', 'val/airplane'), "Did you mean 'aeroplane', which has training files?"),
        (('train/a', 'train/b', 'train'), 'train/0.jpg is in no class folder. Move it into one, or elsewhere'),
        (('cat/train', 'cat/val', 'dog/train'), 'If cat is a class, turn the levels round: '),
        (('cat', ' dog'), "The name of the class folder ' dog' begins or ends with a blank. Rename it."),
        # a level too high
        (
            ('clips/a', 'clips/b', 'photos/a', 'photos/b', 'photos/c', 'photos/d', 'x/a', 'x/b'),
            'data: the files are not in class folders, but in folders below them: clips has a, b, photos has a, b, c '
            'and 1 more, x has a, b. If clips, photos, x are the classes, move them into ',
        ),
        (
            ('cats/2020', 'cats/2021', 'dogs/2020', 'dogs/2021'),
            'data/train. If 2020, 2021 are the classes, make a folder of each, as ',
        ),
        (('my/a', 'my/b', 'x/c', 'x/d'), 'If my, x are the classes, move them into '),
        (('my/a', 'my/b', 'x/c', 'x/d'), 'data/train. Give the folder of the classes: '),
        (tuple(f'{x}/{x}{y}' for x in 'vwxyz' for y in 'ab'), 'data/x or one of 2 more.'),
        (('Images/a', 'Images/b', 'Videos/a', 'Videos/b'), "'Images' would be a class."),
        (('my/images/train/a', 'my/images/train/b'), 'data/my.'),
        (('my/images/a', 'my/images/b'), 'data/my.'),
        (('val/a', 'val/b'), "'val' would be a class. Folders of that name are part of a layout"),
        (('images/a', 'videos/a', 'photos/a'), "'images' would be a class."),
        (('images/a', 'images/b', 'images/val'), "'val' would be a class."),
    ],
)
def test_mistakes(tmp_path, places, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        omnimae.finetune(write_classes(tmp_path / 'data', *places), tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('places', [('cat', 'emu'), ('train/cat', 'train/emu'), ('images/cat', 'images/emu')])
def test_an_empty_class_folder_is_a_mistake(tmp_path, places):
    data = write_classes(tmp_path, *places)
    folder = data / os.path.dirname(places[0]) / 'dog 2'
    (folder.parent / '.cache').mkdir()
    _labelled(data)
    for held in ('nothing', '.txt 1'):
        (folder / 'inner').mkdir(parents=True, exist_ok=True)
        with pytest.raises(ValueError, match=f'{folder} has no file that can be used; it holds {held}.*or remove it'):
            _labelled(data)
        (folder / 'notes.txt').touch()


def test_mistakes_of_names(tmp_path):
    for call, message in (
        (lambda: omnimae.pretrain(out=tmp_path), 'Give images=FOLDER, videos=FOLDER, or both'),
        (lambda: omnimae.pretrain(images='../fils'), "images='../fils' is not a folder. Correct the path"),
        (lambda: omnimae.finetune('../fils'), "data='../fils' is neither a folder nor a table. Correct the path"),
        (lambda: omnimae.pretrain(images=tmp_path, epochs=0), 'epochs=0 trains nothing. Give 1 or more'),
        (lambda: omnimae.finetune(tmp_path, epochs=-1), 'epochs=-1 trains nothing. Give 1 or more'),
        (lambda: omnimae.pretrain(images=tmp_path, out=__file__), 'out: .*py is a file. Give a folder'),
        (lambda: omnimae.finetune(tmp_path, f'{__file__}/run'), 'out: .*py is a file. Give a folder'),
        (lambda: omnimae.pretrain(videos=write_classes(tmp_path, 'a')), "videos='.*' has no video"),
        (lambda: omnimae.pretrain(images=tmp_path, arch='vit-b'), "arch='vit-b' is unknown. Choose from tiny, base"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize(
    ('rows', 'epochs', 'steps', 'batch'),
    [(20, 100, 2, 16), (1000, 100, 16, 64), (100_000, 20, 1563, 64)],
)
def test_schedule_of_finetuning(rows, epochs, steps, batch):
    schedule = _Schedule.of(dict(images=rows), dict(images=1), 64, None, (5000, 20, 100))
    assert schedule[:3] == (epochs, steps, batch)


@pytest.mark.parametrize(
    ('text', 'train', 'val'),
    [
        # paths and labels of a name, with a header in another order and a split
        (
            'label,Split,file\n2,train,a/1.jpg\n1,TRAIN,"a/2.jpg"\n1,val,b/3.jpg\n2,test,4.jpg\n',
            ['a/2.jpg 1', 'a/1.jpg 2'],
            ['b/3.jpg 1'],
        ),
        (
            'a/1.jpg;cat;train\na/2.jpg;big dog;train\nb/3.jpg;cat;valid\n',
            ['a/2.jpg big dog', 'a/1.jpg cat'],
            ['b/3.jpg cat'],
        ),
        ('path\tclass\na/1.jpg\tcat\na/2.jpg\tcat\nb/3.jpg\tdog\n4.jpg\tdog\n', None, None),
    ],
)
def test_a_table_of_paths_and_labels(tmp_path, text, train, val):
    for name in ('a/1.jpg', 'a/2.jpg', 'b/3.jpg', '4.jpg'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    table = tmp_path / 'labels.csv'
    table.write_text(text)
    labelled = _labelled(table)
    assert labelled.sources['val']['images']['root'] == str(tmp_path)
    lists = {name: labelled.lists[f'{name}_images.txt'] for name in ('train', 'val')}
    if train is None:  # one of each class is held out
        assert [len(lists[name]) for name in lists] == [2, 2]
        assert 'There is no val of images: 2 files are held out' in labelled.note
    else:
        assert lists == dict(train=train, val=val)
        assert labelled.note == '1 files measure the accuracy, so it is known to 50 points.'


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('a.jpg,cat\nb.jpg,dog\n', r'line 2: b.jpg does not exist. Paths are relative to the folder of the table.'),
        ('name,kind\na.jpg,cat\n', r'has the columns name, kind. Name one of them label.'),
        ('a.jpg,cat\na.jpg,\n', r"line 2: 'a.jpg,' has no path of a known ending, or no label."),
        ('a.jpg,cat,fold1\n', r"line 1: the split 'fold1' is unknown. Write train, val or test."),
        ('a.jpg cat\n', r'has no row "path,label". Paths end in one of .jpg'),
        ('a.jpg,cat\n', r"has one class, 'cat', and a classifier needs two or more. Correct its labels."),
        (
            'a.jpg,cat,train\na.jpg,dog,train\na.jpg,Dog,val\n',
            "The split val has classes without training files: Dog. Add rows of 'Dog' to the split train, or correct "
            "or remove those of the split val. Did you mean 'dog'",
        ),
    ],
)
def test_mistakes_of_a_table(tmp_path, text, message):
    (tmp_path / 'a.jpg').touch()
    (tmp_path / 'labels.csv').write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)):
        omnimae.finetune(tmp_path / 'labels.csv', tmp_path / 'run')


@pytest.mark.parametrize('place', ['.', 'train', 'images'])
def test_a_table_beside_the_files_is_named(tmp_path, place):
    data = write_classes(tmp_path, place, 'test')
    (tmp_path / 'labels.csv').touch()
    with pytest.raises(ValueError, match=f'If labels.csv has the labels, give it instead: {tmp_path}/labels.csv.$'):
        _labelled(data)


def test_classes_that_are_numbers_keep_their_files(tmp_path):
    labelled = _labelled(write_classes(tmp_path, '1', '2'))
    (tmp_path / 'list.txt').write_text('\n'.join(labelled.lists['train_images.txt']))
    rows = read_list(str(tmp_path / 'list.txt'), ['.jpg'], classes=labelled.classes)
    assert [labelled.classes[k] for k in rows.labels] == [path[0] for path in rows.paths] == ['1', '2']


@pytest.mark.parametrize(
    ('files', 'epochs', 'weights', 'message'),
    [
        (50, 100, None, 'It will see 5000 crops in 100 steps.'),
        (50, 100, None, 'So expect no gain here. Published weights are a better start: omnimae finetune DATA'),
        (50, 100, 'x', 'For fewer than 1,000 files fine-tuning alone is enough as a rule.'),
    ],
)
def test_a_pretraining_says_what_to_expect(files, epochs, weights, message):
    schedule = _Schedule(epochs, 1, files, ())
    assert message in _expected(schedule, files, weights)
    assert 'So expect' not in _expected(_Schedule(100, 100, 16, ()), 2000, None)


def test_schedule_counts_crops():
    schedule = _Schedule.of(dict(images=1000, videos=1000), dict(images=1, videos=4), 256, None, (100_000, 100, 1600))
    assert schedule[:3] == (1600, 4 + 16, 256)


def test_batch_size_of_a_card(tmp_path):
    config = tmp_path / 'config.py'
    config.write_text(_text('pretrain_images', dict(model=SIZES['tiny']), ()))
    assert fitting_size(config, dict(images=1000), 256, 1.4 * GIB) == 32


def test_checkpoints_say_their_arch(tmp_path):
    assert _start('vitl_pretrain', 'auto')[2] == 'large'
    with pytest.raises(ValueError, match="arch='tiny', and vitl_pretrain has arch='large'"):
        _start('vitl_pretrain', 'tiny')
    file, patch = tmp_path / 'x.pth', torch.zeros(1280, 3, 2, 14, 14)
    torch.save({'backbone.patch_embed.weight': patch, 'backbone.patch_embed.bias': patch[:, 0, 0, 0, 0]}, file)
    assert _start(file, 'auto')[1:] == (dict(backbone=SIZES['huge']['backbone']), 'huge')


def test_pretraining_takes_any_tree_and_holds_files_out(tmp_path, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr('omnimae.own_data._run', lambda *args: calls.append(args))
    data = write_classes(tmp_path / 'data', 'a', 'b', '.', count=20)
    (data / 'empty').mkdir()
    (data / 'a' / 'IMG.PSD').touch()
    omnimae.pretrain(images=data, out=tmp_path / 'run')
    assert 'files passed over: .psd 1 (a/IMG.PSD)' in capsys.readouterr().out
    lists, rows = calls[0][2:4]
    train, val = lists['train_images.txt'], lists['val_images.txt']
    assert (len(train), len(val), rows) == (57, 3, dict(images=57))
    assert {*train, *val} == {f'{folder}{number}.jpg' for folder in ('', 'a/', 'b/') for number in range(20)}
    few = write_classes(tmp_path / 'few', 'a', 'b')
    omnimae.pretrain(images=few, out=tmp_path / 'run')
    lists = calls[1][2]
    assert lists['val_images.txt'] == lists['train_images.txt'] == ['a/0.jpg', 'a/1.jpg', 'b/0.jpg', 'b/1.jpg']


def test_the_first_line_comes_before_the_imports():
    text = 'import sys; from omnimae.stopping import start_tool; start_tool(); assert "torch" not in sys.modules'
    for rank, lines in ((None, 1), ('0', 1), ('1', 0)):
        env = {**os.environ, 'RANK': rank} if rank else {k: v for k, v in os.environ.items() if k != 'RANK'}
        done = subprocess.run([sys.executable, '-c', text], env=env, capture_output=True, text=True, check=True)
        assert done.stderr.count('loading PyTorch') == lines


@pytest.mark.parametrize(
    ('name', 'content', 'message'),
    [
        ('labels.xlsx', b'PK', 'labels.xlsx is a spreadsheet. Save it as CSV, and give that file.'),
        ('data.zip', b'PK\5\6' + bytes(18), 'data.zip is an archive. Unpack it, and give the folder.'),
        ('a.jpg', b'', 'a.jpg is one file. Give a folder; known are '),
    ],
)
def test_a_file_that_is_no_table(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        _labelled(tmp_path / name)


def test_classes_of_almost_the_same_name_are_told(tmp_path, capsys):
    _labelled(write_classes(tmp_path, 'big cat', 'Big_Cats', '+', '-'))
    assert 'Some classes have almost the same name: Big_Cats and big cat. If' in capsys.readouterr().out
