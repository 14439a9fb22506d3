"""What a classifier gets wrong and what it looks at: counts, tables, pictures, saliency."""

from __future__ import annotations

import csv
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_run import CLASSIFY, write_config, write_data

from omnimae.apis import get_model
from omnimae.checkpoint import save_file
from omnimae.commands import model_parser, parse_model
from omnimae.config import load_config
from omnimae.engine import analyze
from omnimae.evaluation import Scores, confusion_matrix, count, load_scores
from omnimae.predictions import Counted, accuracy_table, predict
from omnimae.registry import DATASETS, MODELS
from omnimae.structures import check_out
from omnimae.visualization.confusion import confused_pairs, confusion_picture
from omnimae.visualization.saliency import overlay, saliency, saliency_sheet

SIZES = dict(embed_dim=24, depth=2, num_heads=2, patch_size=(2, 16, 16), clip_size=(4, 64, 64))


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> Path:
    return write_data(tmp_path_factory.mktemp('data'), num_pictures=6, num_movies=1)


def test_confusion_matrix_counts_true_rows_and_predicted_columns():
    matrix = confusion_matrix(np.array([1, 1, 0, 2]), np.array([0, 1, 0, 1]), 4)
    assert matrix.tolist() == [[1, 1, 0, 0], [0, 1, 1, 0], [0] * 4, [0] * 4]
    assert confused_pairs(matrix) == [(0, 1, 1), (1, 2, 1)]
    with pytest.raises(ValueError, match='no labels, so no confusion matrix'):
        confusion_matrix(np.array([1]), np.array([], int), 4)


@pytest.mark.parametrize(
    ('modalities', 'groups'),
    [
        (('image', 'image', 'image'), {'a': 100, 'b': 0, 'c': 0}),
        (('image', 'video', 'video'), {'image': 100, 'video': 0, 'a': 100, 'b': 0, 'c': 0}),
    ],
)
def test_accuracy_of_modalities_and_sources(modalities, groups, tmp_path):
    eye, sources = np.eye(2)[[0, 0, 0]], np.array(['a', 'b', 'c'])
    scores = Scores(sources, np.array([0, 1, 1]), eye, eye, sources, np.array(modalities))
    scores.save(tmp_path / 'scores.npz')
    found = count(load_scores([tmp_path / 'scores.npz']), topk=(1,))
    assert {name.split('/')[0]: value for name, value in found.items() if name.endswith('/top1')} == groups


def test_a_modality_of_one_source_is_counted_once():
    eye = np.eye(2)[[0, 0]]
    scores = Scores(
        np.array(['x', 'y']), np.array([0, 1]), eye, eye, np.array(['a', 'b']), np.array(['image', 'video'])
    )
    assert [name for name in count(scores, topk=(1,)) if name.endswith('/top1')] == ['a/top1', 'b/top1']


@pytest.mark.parametrize(('num_classes', 'wide'), [(2, False), (61, True)])
def test_confusion_pictures(num_classes, wide, tmp_path):
    matrix = np.eye(num_classes, dtype=int)
    confusion_picture(tmp_path / 'a.png', matrix, ['$a$ \udcff', *map(str, range(1, num_classes))])
    width, height = Image.open(tmp_path / 'a.png').size
    assert 400 < height < 1200
    assert (width > 1.3 * height) == wide


def test_errors_are_tables_and_pictures(data, tmp_path):
    config = load_config(write_config(tmp_path / 'tiny.py', CLASSIFY, data))
    dataset = DATASETS.build(config.test_dataloader.dataset)
    [source] = dataset.sources
    ids, labels = np.array([*source.ids]), source.labels
    probabilities = np.eye(2)[labels] * 0.4 + 0.3
    probabilities[1], probabilities[4] = [0.2, 0.8], [0.9, 0.1]  # of a/2.png and b/3.png
    scores = Scores(ids, labels, np.log(probabilities), probabilities, np.full(6, 'pictures'), np.full(6, 'image'))
    files = analyze(scores, dataset, tmp_path / 'errors')
    assert [path.name for path in files] == ['confusion.png', 'confusion.csv', 'wrong.csv', 'worst.png']
    tables = [[*csv.reader(path.open(newline=''))] for path in files[1:3]]
    assert tables[0] == [['true', 'a', 'b'], ['a', '2', '1'], ['b', '1', '2']]
    assert tables[1][1:] == [
        ['pictures', ids[4], 'b', 'a', '0.900000'],
        ['pictures', ids[1], 'a', 'b', '0.800000'],
    ]
    page = np.asarray(Image.open(files[3]))
    thumbnail = np.asarray(Image.open(data / 'pictures' / ids[4]).crop((8, 4, 40, 36)).resize((192, 192)))
    assert any((page[y : y + 192, 8:200] == thumbnail).all() for y in range(8, 80))
    right = Scores(ids[:1], labels[:1], np.eye(2)[labels[:1]], np.eye(2)[labels[:1]])
    assert len(analyze(right, dataset, tmp_path / 'nothing wrong')) == 3


def one_channel(classifier: bool = True, **options) -> torch.nn.Module:
    """A model whose blocks change nothing, whose tokens have their red in channel 0, and whose class 1 reads that."""
    kind = 'Classifier' if classifier else 'LinearProbe'
    model = MODELS.build(dict(type=kind, backbone=dict(type='SpatioTemporalViT', **SIZES, **options), num_classes=2))
    backbone = model.backbone.eval()
    linear = model.head if classifier else model.head[1]
    with torch.no_grad():
        for block in backbone.blocks:
            for layer in (block.attn.proj, block.mlp.fc2):
                layer.weight.zero_(), layer.bias.zero_()
        backbone.pos_embed.zero_()
        backbone.patch_embed.weight.zero_()
        backbone.patch_embed.weight[0, 0] = 0.01
        linear.weight.zero_()
        linear.weight[1, 0] = 1
    return model.eval()


@pytest.mark.parametrize('classifier', [True, False])
@pytest.mark.parametrize('frames', [1, 4])
def test_saliency_is_largest_where_the_head_looks(classifier, frames):
    clip = torch.zeros(2, 3, frames, 64, 64, dtype=torch.uint8)
    clip[0, 0, -1, 16:32, 48:] = clip[1, 0, -1, :16, :16] = 255  # token (1, 3), and (0, 0)
    clip[:, 2, :, 32:48, :16] = 255  # blue is nothing to this head
    model = one_channel(classifier)
    with torch.inference_mode():
        logits, effect = saliency(model, clip, torch.tensor([1, 1]))
    assert logits.shape == (2, 2)
    assert effect.shape == (2, max(frames // 2, 1), 4, 4)
    last = effect.shape[1] - 1
    assert [np.unravel_index(int(x.argmax()), x.shape) for x in effect] == [(last, 1, 3), (last, 0, 0)]
    others = torch.isclose(effect.flatten(1), effect[:, 0, 2, :1], rtol=0.02, atol=0)
    assert others.sum(1).min() >= 14  # all that the head does not look at are equal


def test_saliency_of_a_class_token():
    model = MODELS.build(
        dict(
            type='Classifier',
            backbone=dict(type='SpatioTemporalViT', **SIZES, cls_token=True, pool='cls'),
            num_classes=2,
            head_init_std=1.0,
        )
    ).eval()
    clip = torch.randint(0, 256, (1, 3, 1, 64, 64), dtype=torch.uint8)
    logits, effect = saliency(model, clip)
    torch.testing.assert_close(logits, model.predict(clip).detach())
    assert effect.shape == (1, 1, 4, 4)
    assert effect.abs().max() > 1e-3


@pytest.mark.parametrize('options', [dict(type='LinearProbe'), dict(type='AttentiveProbe', num_queries=4)])
def test_probes_are_predicted_and_explained(options: dict):
    torch.manual_seed(0)
    backbone = dict(type='SpatioTemporalViT', **SIZES)
    model = MODELS.build(dict(options, backbone=backbone, num_classes=2)).eval()
    clip = torch.randint(0, 256, (1, 3, 4, 64, 64), dtype=torch.uint8)
    logits, effect = saliency(model, clip)
    torch.testing.assert_close(logits, model.view_logits(clip)[:, 0].detach())
    torch.testing.assert_close(logits, model.predict(clip).detach())
    assert effect.shape == (1, 2, 4, 4)
    assert effect.abs().max() > 1e-4


def test_saliency_refuses_a_backbone_without_one_grid():
    rgb = dict(type='PatchTokenizer', patch_size=(1, 16, 16), clip_size=(1, 64, 64), channels=3)
    backbone = dict(type='MultiModalViT', tokenizers=dict(rgb=rgb), embed_dim=24, depth=1, num_heads=2)
    model = MODELS.build(
        dict(type='Classifier', backbone=backbone, num_classes=2, data_preprocessor=dict(type='MultiModalPreprocessor'))
    )
    with pytest.raises(ValueError, match='MultiModalViT has tokens of several modalities'):
        saliency(model, torch.zeros(1, 3, 1, 64, 64, dtype=torch.uint8))


def test_overlay_colours_what_speaks_for_the_class():
    frames, effect = np.full((2, 32, 32, 3), 100, np.uint8), np.array([[[-5.0, 0.0], [0.0, 2.0]]], np.float32)
    drawn = overlay(frames, effect)
    assert drawn.shape == frames.shape
    assert (drawn[0] == drawn[1]).all()
    assert drawn[0, 0, 0].tolist() == [100] * 3
    red, _, blue = drawn[0, -1, -1].tolist()
    assert red > 130 > 60 > blue


def load_tool(name: str):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[1] / 'tools' / f'{name}.py')
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    return tool


def test_predict_takes_a_config_and_a_checkpoint(data, tmp_path, monkeypatch, capsys):
    config, weights = write_config(tmp_path / 'tiny.py', CLASSIFY, data), tmp_path / 'weights.safetensors'
    save_file(MODELS.build(load_config(config).model).state_dict(), weights, {})
    predict = load_tool('predict').main
    words = [str(config), str(weights), str(data / 'pictures'), '--out', str(tmp_path / 'a.csv')]
    predict([*words, '--cfg-options', 'test_evaluator.softmax=True'])
    rows = [*csv.reader((tmp_path / 'a.csv').open(newline=''))]
    assert rows[0] == ['input', 'class', 'score', 'class_2', 'score_2', 'error']
    assert len(rows) == 7
    predict([str(data / 'pictures'), '--model', str(config), '--checkpoint', str(weights), *words[3:]])
    again = [*csv.reader((tmp_path / 'a.csv').open(newline=''))]
    assert [row[:2] for row in again] == [row[:2] for row in rows]
    # of one view both ways to average give the same, but for rounding
    numbers, expected = ([float(row[2]) for row in table[1:]] for table in (again, rows))
    assert numbers == pytest.approx(expected, abs=2e-6)
    monkeypatch.setitem(sys.modules, 'pyarrow', None)
    with pytest.raises(ValueError, match='needs pyarrow'):
        predict([*words[:-1], str(tmp_path / 'a.parquet')])
    with pytest.raises(SystemExit):
        predict(words[:2])
    assert 'no input. Give RUN INPUT..., or CONFIG CHECKPOINT INPUT...' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('words', 'config', 'checkpoint', 'paths'),
    [
        ('run photos a.jpg', 'run', None, 'photos a.jpg'),
        ('photos a.jpg run', 'run', None, 'photos a.jpg'),
        ('photos --model run', 'run', None, 'photos'),
        ('run photos --checkpoint w.pth', 'run', 'w.pth', 'photos'),
        ('custom/knn_images w.pth photos a.jpg', 'custom/knn_images', 'w.pth', 'photos a.jpg'),
        ('custom/knn_images photos w.pth', 'custom/knn_images', 'w.pth', 'photos'),
        ('photos custom/knn_images https://x/w.torch', 'custom/knn_images', 'https://x/w.torch', 'photos'),
        ('photos custom/knn_images run', 'custom/knn_images', 'run', 'photos'),
        ('vitb_pretrain a.jpg c.py', 'c.py', 'vitb_pretrain', 'a.jpg'),
        ('c.py a.jpg', 'c.py', None, 'a.jpg'),  # an error later: there is no checkpoint
        ('typo/knn w.pth a.jpg', 'typo/knn', 'w.pth', 'a.jpg'),  # likewise: no such config
        ('photos misspelt', 'misspelt', None, 'photos'),
        ('a.jpg misspelt', 'misspelt', None, 'a.jpg'),
        ('photos a.jpg', 'photos', None, 'a.jpg'),
    ],
)
def test_words_of_a_command_may_have_any_order(words, config, checkpoint, paths, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ('run', 'photos'):
        (tmp_path / name).mkdir()
    for name in ('run/config.py', 'run/epoch_1_raw.safetensors', 'c.py', 'a.jpg', 'w.pth'):
        (tmp_path / name).touch()
    args = parse_model(model_parser('', ''), words.split())
    assert (args.config, args.checkpoint, ' '.join(args.paths)) == (config, checkpoint, paths)


def test_the_folder_of_a_run_is_a_model(data, tmp_path, capsys):
    run = tmp_path / 'run'
    run.mkdir()
    config = write_config(run / 'config.py', CLASSIFY, data)
    weights = MODELS.build(load_config(config).model).state_dict()
    save_file(weights, run / 'epoch_1_raw.safetensors', {})
    assert torch.equal(get_model(run).state_dict()['head.weight'], weights['head.weight'])
    load_tool('explain').main([str(data / 'pictures' / 'b'), str(run), '--out-dir', str(tmp_path / 'out')])
    out, names = tmp_path / 'out', ', '.join(f'{number}.png' for number in (1, 3, 5))
    assert capsys.readouterr().out.splitlines()[-1] == f'3 files in {out}: {names}'
    test = load_tool('test').parse_args([str(run)])
    assert (test.config, test.checkpoint) == (config, run / 'epoch_1_raw.safetensors')
    with pytest.raises(SystemExit):
        load_tool('test').parse_args([str(config)])
    said = f'{config} is no folder of a run, and there is no checkpoint. Give RUN, or CONFIG CHECKPOINT'
    assert said in capsys.readouterr().err


def test_explain_draws_images_and_clips_with_their_names(data, tmp_path, capsys):
    config = write_config(tmp_path / 'tiny.py', CLASSIFY, data)
    save_file(MODELS.build(load_config(config).model).state_dict(), tmp_path / 'weights.safetensors', {})
    tool = load_tool('explain')
    (data / 'movies' / 'broken.mp4').write_bytes(b'nothing')
    inputs = [str(data / 'pictures' / 'b' / '1.png'), str(data / 'movies')]
    with pytest.raises(SystemExit, match=r'1 of 3 files could not be read:\n.*broken\.mp4: '):
        tool.main([str(config), str(tmp_path / 'weights.safetensors'), *inputs, '--out-dir', str(tmp_path / 'out')])
    sizes = [Image.open(tmp_path / 'out' / name).size for name in ('pictures/b/1.png', 'movies/0.png')]
    assert sizes[0][0] < sizes[1][0]
    assert capsys.readouterr().out.splitlines()[-1].endswith(': pictures/b/1.png, movies/0.png')


def test_pictures_of_saliency_say_what_their_colours_mean(monkeypatch):
    drawn = []
    monkeypatch.setattr('omnimae.visualization.saliency.sheet', lambda title, rows, columns: drawn.append(rows[-1]))
    for frames in (1, 4):
        saliency_sheet(np.zeros((frames, 32, 32, 3), np.uint8), np.ones((1, 2, 2), np.float32), 'a.png: cat', 'cat')
    said = 'Colour: how much a place speaks for cat. Red is the most in this'
    assert [row.caption.partition(', green')[0] for row in drawn] == [f'{said} image', f'{said} clip']


def test_accuracy_of_folders_that_are_classes(data, tmp_path, capsys):
    config, weights = load_config(write_config(tmp_path / 'tiny.py', CLASSIFY, data)), tmp_path / 'weights.safetensors'
    config.test_dataloader.dataset.sources.pictures.classes = ['a', 'b']
    save_file(MODELS.build(config.model).state_dict(), weights, {})
    predict(data / 'pictures', config, tmp_path / 'a.csv', checkpoint=weights)
    guesses = [(row['input'].split('/')[-2], row['class']) for row in csv.DictReader((tmp_path / 'a.csv').open())]
    right = sum(label == guess for label, guess in guesses)
    said = capsys.readouterr().out
    assert 'trained on 6 of these 6 files. Their accuracy says little about new files.' in said
    table = said.partition('The folders are classes')[2].splitlines()
    assert table[1].split() == ['files', 'right', 'accuracy,', '%']
    assert table[2].split() == ['all', '6', str(right), f'{100 * right / 6:.1f}']
    assert [line.split()[:3] for line in table[3:]] == [['class', 'a', '3'], ['class', 'b', '3']]
    predict(data / 'pictures' / 'a', config, tmp_path / 'a.csv', checkpoint=weights)  # its files are in no folder
    assert 'so the accuracy' not in capsys.readouterr().out


def test_predict_says_what_its_table_hides(tmp_path, capsys, monkeypatch):
    data = write_data(tmp_path / 'data', num_pictures=6, num_movies=1)
    config, weights = load_config(write_config(tmp_path / 'tiny.py', CLASSIFY, data)), tmp_path / 'weights.safetensors'
    config.test_dataloader.dataset.sources.pictures.classes = ['a', 'b']
    source = dict(type='ImageDataset', root=str(data / 'pictures'), ann_file=str(tmp_path / 'train.txt'))
    config.train_dataloader = dict(dataset=dict(sources=dict(images=source)))
    (tmp_path / 'train.txt').write_text('a/0.png 0\na/2.png 0\nb/1.png 1\n')
    save_file(MODELS.build(config.model).state_dict(), weights, {})
    monkeypatch.chdir(data)  # the same files by other paths
    (tmp_path / 'link').symlink_to(data / 'pictures')
    predict([tmp_path / 'link'], config, tmp_path / 'a.csv', checkpoint=weights)
    said = capsys.readouterr().out
    assert 'trained on 3 of these 6 files. Their accuracy says little about new files.' in said
    counts = [line.split()[:3] for line in said.splitlines()]
    assert ['trained', 'on', '3'] in counts
    assert ['new', '3'] in [line[:2] for line in counts]
    assert 'exists' not in said
    assert 'videos' not in said
    config.train_dataloader.dataset.sources.images = dict(type='ImageDataset', root=str(data / 'moved'))
    (data / 'pictures' / 'a' / '0.png').write_bytes(b'no image')
    predict(['pictures', 'movies'], config, tmp_path / 'a.csv', checkpoint=weights)
    said = capsys.readouterr().out
    assert 'a.csv exists and has 6 rows. It will be replaced at the end.' in said
    assert '1 of 7 inputs are videos. The classifier was trained on images alone.' in said
    assert '1 of 7 files could not be read. The first is pictures/a/0.png: not an image' in said
    predict('pictures', config, tmp_path / 'a.csv', checkpoint=weights)
    assert 'Files of the training may be among them: its lists cannot be read here.' in capsys.readouterr().out


def test_predict_checks_names_before_it_loads_the_model(data, tmp_path):
    for inputs, out, message in (
        (tmp_path / 'missing.jpg', 'a.csv', 'missing.jpg does not exist'),
        (data / 'pictures', tmp_path, 'out: .* is a folder. Give the name of a file'),
        (data / 'pictures', tmp_path / 'file' / 'a.csv', 'out: .*file is a file. Give a folder, which may be new'),
    ):
        (tmp_path / 'file').touch()
        with pytest.raises(ValueError, match=message):
            predict(inputs, 'no/such/model', out)


@pytest.mark.parametrize(
    ('name', 'words', 'option'),
    [
        ('explain', 'config model a.jpg', '--out-dir'),
        ('predict_maps', 'config model a.jpg', '--out-dir'),
        ('visualize_reconstruction', 'config model a.jpg', '--out-dir'),
        ('browse_dataset', 'config', '--out-dir'),
        ('test', 'config model', '--analyze'),
    ],
)
def test_a_file_in_the_place_of_a_folder(name, words, option, tmp_path, capsys):
    (tmp_path / 'file').touch()
    with pytest.raises(SystemExit):
        load_tool(name).parse_args([*words.split(), option, str(tmp_path / 'file')])
    assert f'argument {option}: {tmp_path}/file is a file. Give a folder, which' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('name', 'words', 'message'),
    [
        ('train', 'custom/pretrain --work-dir file', '--work-dir: file is a file. Give a folder'),
        ('test', 'custom/pretrain x.pth --work-dir file/run', '--work-dir: file is a file. Give a folder'),
        ('test', 'custom/pretrain x.pth --out file/a.json', '--out: file is a file. Give a folder'),
        ('extract_features', 'custom/pretrain x.pth --out file', '--out: file is a file. Give a folder'),
        ('extract_features', 'custom/pretrain x.pth --out folder.npz', '--out: folder.npz is a folder. Give the name'),
        ('convert_checkpoint', 'x.pth file --to timm', 'DST: file is a file. Give a folder'),
        ('convert_checkpoint', 'x.pth file/a.pth', 'DST: file is a file. Give a folder'),
        ('export', 'custom/finetune x.pth file/a.pt2', 'out: file is a file. Give a folder'),
        ('score', 'a.npz --actions a.csv --submission file/a.zip', '--submission: file is a file. Give a folder'),
        ('prepare_dataset', 'shard --root folder.npz --out file', '--out: file is a file. Give a folder'),
        ('reproduce', 'figure2 --work-dir file', '--work-dir: file is a file. Give a folder'),
    ],
)
def test_a_place_is_looked_at_before_anything_is_read(name, words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for variable in ('IMAGES', 'VIDEOS', 'LABELLED'):
        monkeypatch.setenv(f'OMNIMAE_{variable}', str(tmp_path))
    (tmp_path / 'file').touch()
    (tmp_path / 'folder.npz').mkdir()
    monkeypatch.setattr(sys, 'argv', [name, *words.split()])
    with pytest.raises((ValueError, SystemExit)) as error:
        load_tool(name).main()
    assert message in f'{error.value}{capsys.readouterr().err}'


@pytest.mark.parametrize('is_folder', [True, False])
def test_a_place_without_permission(is_folder, tmp_path, monkeypatch):
    monkeypatch.setattr('os.access', lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(ValueError, match=f'^--out: {tmp_path} cannot be written. Change its permissions, or give'):
        check_out(tmp_path / 'new' / 'a', is_folder=is_folder, name='--out: ')
    (tmp_path / 'there').touch()
    monkeypatch.setattr('os.access', lambda path, mode: Path(path) != tmp_path / 'there')
    with pytest.raises(ValueError, match='there cannot be written'):
        check_out(tmp_path / 'there', is_folder=False)
    check_out(tmp_path / 'new' / 'a', is_folder=is_folder)


def test_table_of_accuracies():
    rows = [Counted('a', 'image', 'a'), Counted('a', 'video', 'b'), Counted('b', 'video', 'b')]
    lines = [line.split() for line in accuracy_table(rows).splitlines()[1:]]
    assert lines[0] == ['all', '3', '2', '66.7']
    assert lines[1:3] == [['images', '1', '1', '100.0'], ['videos', '2', '1', '50.0']]
    assert lines[3:] == [['class', 'a', '2', '1', '50.0'], ['class', 'b', '1', '1', '100.0']]
