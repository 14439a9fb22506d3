"""Mistakes that users make in options, and settings of MMEngine's that they try: they work, or say what to do."""

from __future__ import annotations

import argparse
import inspect
import json
import os
import resource
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from PIL import Image
from programs import TOOLS
from test_faults import load_tool
from tiny_run import CLASSIFY, COUNTED, PRETRAIN, build_runner, write_config, write_data

from omnimae.apis import ClassificationInferencer
from omnimae.checkpoint import Checkpoint, export, read_file, save_file
from omnimae.config import OptionAction, find_config, load_config
from omnimae.data.annotations import read_list
from omnimae.data.datasets import ImageDataset, MixedDataset
from omnimae.data.formats.annotation_files import read_csv, read_json
from omnimae.data.storage import backend_args_of
from omnimae.engine import EMAHook, setup_distributed
from omnimae.engine.compat import find_latest_checkpoint
from omnimae.fitting import misfit
from omnimae.models import ClipPreprocessor, PixelTarget
from omnimae.own_data import _start
from omnimae.registry import DATASETS, HOOKS, MODELS


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp('data'), num_pictures=8, num_movies=1)


@pytest.fixture
def config(data: Path, tmp_path: Path) -> Path:
    return write_config(tmp_path / 'c.py', CLASSIFY, data, COUNTED)


def options_of(*words: str) -> dict[str, Any]:
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=OptionAction)
    return parser.parse_args(['--cfg-options', *words]).cfg_options


# ---------------------------------------------------------------------------------------------------------------------
# Options


@pytest.mark.parametrize(
    ('text', 'value'),
    [
        ('None', None), ('true', True), ('1e-3', 1e-3), ('-1', -1), ('1,2', [1, 2]), ('(1,2)', (1, 2)), ('[]', []),
        ('[(1,2),(3,4)]', [(1, 2), (3, 4)]), ('[a,b]', ['a', 'b']), ('[a/b,c]', ['a/b', 'c']), ('/p/q.pth', '/p/q.pth'),
        ('[None,true]', [None, True]), ('s3://b/c?x=1', 's3://b/c?x=1'), ('{}', {}),
        ('{a: 1, "b": [x]}', dict(a=1, b=['x'])),
        ('dict(type=Pretrained,checkpoint=w.pth)', dict(type='Pretrained', checkpoint='w.pth')),
        ("[dict(type='LoggerHook',interval=5)]", [dict(type='LoggerHook', interval=5)]),
        # blanks and brackets in texts, and quotes that reach the program
        ('my photos', 'my photos'), ('"my photos"', 'my photos'), ('[my photos,b]', ['my photos', 'b']), (' 1 ', 1),
        ('/a (b)', '/a (b)'), ("'a,b'", 'a,b'), ("'(a'", '(a'), ("'[1, 2]'", [1, 2]), ('1, (2,3)', [1, (2, 3)]),
    ],
)  # fmt: skip
def test_what_an_option_says(text: str, value: Any):
    assert options_of(f'a.b={text}') == {'a.b': value}


def test_blanks_that_a_shell_splits_at():
    words = ['a', '=', '1', 'b=', '2', 'c', '=[3,', '4]', 'd=dict(type=X,', 'n=5)', 'e=', 'f=x y']
    assert options_of(*words) == dict(a=1, b=2, c=[3, 4], d=dict(type='X', n=5), e='', f='x y')


def test_words_that_are_no_options_end_the_program_with_the_word(capsys: pytest.CaptureFixture):
    for word, message in {
        'launcher=slurm': 'would change nothing. Give --launcher',
        'a': "'a' is no k=v",
        '=1': "'=1' is no k=v",
        'a=[1,2': "the value of 'a=[1,2' cannot",
        'a=1,': "'a=1,' has a comma too many",
        'a=1,b.c=2': 'Put blanks between options',
        'a=1 b.c=2': 'Put blanks between options',
        'a==1': "'a==1' is no k=v",
        'a..b=1': "'a..b=1' is no k=v",
    }.items():
        with pytest.raises(SystemExit, match='2'):
            options_of(word)
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ('word', 'message'),
    [
        # texts where numbers belong
        ('optim_wrapper.optimizer.lr=1.e-4x', r"optimizer\.lr='1\.e-4x': AdamW takes a number, and this is a text"),
        ('train_cfg.max_epochs=1.5', r'max_epochs=1\.5: EpochTrainLoop takes a whole number$'),
        ('default_hooks.logger.interval=1e3', r'interval=1000\.0: LoggerHook takes a whole number: write 1000'),
        ('train_dataloader.num_workers=a', r"num_workers='a': build_dataloader takes a whole number, and this is a"),
        ('randomness.seed=abc', r"randomness\.seed='abc': set_randomness takes a whole number"),
        ('default_hooks.checkpoint.by_epoch=yes', r"by_epoch='yes': CheckpointHook takes True or False, and this is a"),
        # None, a number or a list where something else belongs
        ('train_dataloader.dataset.sources.pictures.replicas=None', r'pictures\.replicas=None: .* a whole number$'),
        ('train_dataloader.dataset.sources.pictures=abc', r"'abc'\}: MixedDataset takes a dict of dicts$"),
        ('train_dataloader.dataset.sources.pictures.transforms.0=None', r'=None: None does not remove an item'),
        ('train_dataloader.dataset.sources.pictures.transforms=dict(type=A)', r'is a list of 1\. Give a list'),
        ('model.backbone.clip_size=32', r'clip_size=32: SpatioTemporalViT takes a list of 3 whole numbers$'),
        ('model.backbone.patch_size=16,16', r'patch_size=\[16, 16\]: .* takes a list of 3 whole numbers$'),
        ('model.backbone=SpatioTemporalViT', r'backbone=.*: Classifier takes a dict, and this is a text'),
        ('optim_wrapper.optimizer.betas=0.9', r'betas=0\.9: AdamW takes a list of 2 numbers$'),
        ('optim_wrapper.optimizer.lr=None', r'lr=None: AdamW takes a number$'),
        ('optim_wrapper.paramwise_cfg=0.75', r'paramwise_cfg=0\.75: a dict belongs here'),
        ('default_hooks.checkpoint.max_keep_ckpts=None', r'max_keep_ckpts=None: CheckpointHook takes a whole number$'),
        ('default_hooks.logger=10', r'default_hooks\.logger=10: a dict belongs here'),
        ('custom_hooks=[EMAHook]', r"custom_hooks\.0='EMAHook': a dict belongs here"),
        ('custom_hooks=[dict(typ=EMAHook)]', r"custom_hooks\.0=\{'typ': 'EMAHook'\}: it has no type"),
        ('custom_hooks=[dict(type=KNNHook)]', r'custom_hooks\.0=.*: KNNHook needs bank_dataloader, query_data'),
        ('custom_hooks=[dict(type=EMAHook,priority=FIRST)]', r"priority='FIRST': give a number from 0 to 100, or one"),
        ('val_evaluator.topk=5', r'topk=5: ClipAccuracy takes a list of whole numbers or None$'),
        ('train_dataloader.sampler=None', r'sampler=None: build_dataloader takes a dict$'),
        ('auto_scale_lr=True', r'auto_scale_lr=True: a dict belongs here'),
        ('resume=/a/b.pth', r"resume='/a/b.pth': MMEngine takes True or False, and this is a text"),
        # words and numbers that there are not
        ('env_cfg.mp_cfg.mp_start_method=frok', r"'frok': set_multi_processing takes 'fork' or 'spawn' or"),
        ('log_level=DEBG', r"log_level='DEBG': MMEngine takes 'DEBUG' or 'INFO' or"),
        ('optim_wrapper.dtype=fp16', r"dtype='fp16': AutocastOptimWrapper takes 'bfloat16' or 'float16' or None"),
        ('model.backbone.drop_path_rate=20', r'drop_path_rate=20: SpatioTemporalViT takes numbers from 0 to 1$'),
        ('model.backbone.patch_size=[2,0,16]', r'patch_size=\[2, 0, 16\]: .* takes numbers from 1 on$'),
        ('optim_wrapper.optimizer.lr=-0.1', r'lr=-0\.1: AdamW takes numbers from 0 on$'),
        ('randomness.seed=-1', r'seed=-1: set_randomness takes numbers from 0 to 4\.29497e\+09$'),
        # parts that do not fit each other
        ('train_dataloader.shuffle=True', r'contradicts train_dataloader\.batch_sampler\.type=.* The batch'),
        ('train_dataloader.sampler.type=DefaultSampler', r"contradicts .*='MixedBatchSampler' .* takes a MixedSampler"),
        ('val_dataloader.collate_fn.type=default_collate', r"Set collate_fn=dict\(type='collate_clips'\)"),
        ('custom_hooks=[dict(type=ReconstructionHook)]', r"contradicts model\.type='Classifier' .* a mask_generator\."),
        # dicts that change nothing, and what is none
        ('randomness={}', r'randomness={}: changes nothing, because dicts are merged\. Give randomness=None'),
        ('model=abc', r"model='abc': a dict belongs here"),
        ('train_cfg.max_epochs.x=1', r'train_cfg\.max_epochs is 2, and has no .x.'),
        ('custom_hooks.0.interval=5', r'custom_hooks=.*a list belongs here'),
        ('train_dataloader.dataset.sources.pictures.transforms.1.size=5', r'transforms has 1 items, .* and no .1.'),
        # keys that nothing reads
        ('train_dataloader.dataset.sources.picture.root=x', r'picture=.* has no type\. Did you mean .pictures.'),
        ('default_hooks.loger.interval=5', r'default_hooks\.loger=.* has no type\. Did you mean .logger.'),
        ('model.init_cfg.checkpoint=w.pth', r'model\.init_cfg=.* has no type'),
        ('env_cfg.float32_precison=highest', r'env_cfg\.float32_precison=.*Did you mean .float32_precision.'),
        ('env_cfg.dist_cfgs.timeout=5', r'env_cfg\.dist_cfgs=.*Did you mean .dist_cfg.'),
        ('auto_scale_lr.enabled=True', r'auto_scale_lr\.enabled=True: scale_lr .*Did you mean .enable.'),
        ('custom_imports.import=[a]', r'custom_imports\.import=.*Did you mean .imports.'),
        ('optim_wrapper.clip_grad.max_nrm=1', r'clip_grad\.max_nrm=1: clip_grad_norm_ .*Did you mean .max_norm.'),
        # half of what belongs together
        ('train_cfg=None', r'train_cfg=None: but there is train_dataloader\. Give all of train_dataloader, train_'),
        ('val_cfg=None', r'or none of them: val_dataloader=None val_cfg=None val_evaluator=None$'),
    ],
)  # fmt: skip
def test_an_option_that_is_a_mistake_is_refused_with_its_key(config: Path, word: str, message: str):
    with pytest.raises(ValueError, match=rf'^--cfg-options: .*{message}'):
        load_config(config, options_of(word))


@pytest.mark.parametrize(
    ('words', 'key', 'value'),
    [
        # None leaves out: a part, or what has a default
        (['train_dataloader.dataset.sources.movies=None'], 'train_dataloader.dataset.sources', ['pictures']),
        (['model.mask_generator.video=None', 'train_dataloader.dataset.sources.movies=None'],
         'model.mask_generator', ['image']),
        (['env_cfg=None', 'randomness=None', 'log_level=None'], 'env_cfg', None),
        # what MMEngine would not put in the place of None
        (['model.init_cfg=dict(type=Checkpoint,checkpoint=w)'], 'model.init_cfg.checkpoint', 'w'),
        (['train_dataloader.num_workers=0', 'train_dataloader.persistent_workers=True'],
         'train_dataloader.persistent_workers', None),
        (['custom_imports.imports=[tiny_run]'], 'custom_imports.imports', ['tiny_run']),
    ],
)  # fmt: skip
def test_what_an_option_may_say(data: Path, tmp_path: Path, words: list[str], key: str, value: Any):
    config = write_config(tmp_path / 'pretrain.py', PRETRAIN, data, "model['init_cfg'] = None\n")
    cfg: Any = load_config(config, options_of(*words))
    for word in key.split('.'):
        cfg = cfg.get(word)
    assert (list(cfg) if isinstance(value, list) else cfg) == value


@pytest.mark.parametrize(
    ('hint', 'fits', 'misfits'),
    [
        (int, [1, -1], [1.0, True, None, '1', [1]]),
        (float, [1, 1.5], [None, '1', [1.0], True]),
        (float | None, [None, 2], ['x']),
        (bool, [True, 0], [2, 'yes', None]),
        (tuple[int, int, int], [[1, 2, 3], (1, 2, 3)], [1, [1, 2], [1, 2, 3, 4], [1, 2, 'x']]),
        (Sequence[float], [[], [1, 2.5]], [0.5, 'abc', [None]]),
        (Mapping[str, dict] | None, [{}, dict(a=dict(b=1)), None], [dict(a=None), [1], 'a']),
        (Literal['a', 'b'], ['a'], ['c', None]),
        (torch.Tensor | float, [1.0], ['x', None]),
        (Hook, ['EMAHook', dict(type='EMAHook'), Hook()], [None, 3]),
        (Path, ['a/b'], [5]),
        (Any, [None, 3, 'x'], []),
    ],
)
def test_a_value_fits_the_annotation_of_its_parameter(hint: Any, fits: list, misfits: list):
    parameter = inspect.Parameter('x', inspect.Parameter.KEYWORD_ONLY, annotation=hint)
    assert [value for value in fits if misfit(parameter, value) is not None] == []
    assert [value for value in misfits if misfit(parameter, value) is None] == []


@pytest.mark.parametrize(
    ('build', 'message'),
    [
        (lambda: ClipPreprocessor(mean=(123.675, 116.28, 103.53)), r'mean=\(123.* Divide those of 0\.\.255 by 255'),
        (lambda: PixelTarget(mean=(0.5, 0.5), std=(0.5, 0.5)), 'PixelTarget: mean=.* must be three numbers each'),
        (lambda: EMAHook(momentum=0.9999), r'momentum=0\.9999 is the share of the newest .* has momentum=0\.0001'),
        (lambda: backend_args_of('x', dict(backend='s4')), r"backend='s4' is unknown\. Choose one of .*fsspec, http"),
    ],
)
def test_numbers_of_another_unit_and_unknown_words(build: Any, message: str):
    with pytest.raises(ValueError, match=message):
        build()


def test_a_transform_of_another_package_is_refused_where_it_cannot_be_called(data: Path):
    with pytest.raises(ValueError, match=r'transforms: mmpretrain\.CenterCrop does not take a clip .* Wrap it'):
        ImageDataset(root=str(data / 'pictures'), transforms=[dict(type='mmpretrain.CenterCrop', crop_size=32)])


def test_paramwise_words_that_nothing_reads_are_refused(config: Path):
    options = {'optim_wrapper.constructor': 'DefaultOptimWrapperConstructor', 'optim_wrapper.paramwise_cfg': None}
    load_config(config, {**options, 'optim_wrapper.paramwise_cfg': dict(_delete_=True, norm_decay_mult=0.0)})
    with pytest.raises(ValueError, match=r'paramwise_cfg\.norm_decay=0\.0: .*Did you mean .norm_decay_mult.'):
        load_config(config, {**options, 'optim_wrapper.paramwise_cfg': dict(_delete_=True, norm_decay=0.0)})


def test_a_config_without_a_training_says_so(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    none = [f'{part}=None' for part in ('train_dataloader', 'train_cfg', 'optim_wrapper')]
    words = ['train', str(config), '--work-dir', str(tmp_path / 'w'), '--cfg-options', *none]
    monkeypatch.setattr('sys.argv', words)
    with pytest.raises(ValueError, match=r'c\.py has no training\. Add train_dataloader, train_cfg and optim_wrapper'):
        load_tool('train').main()
    assert not (tmp_path / 'w').exists()


def test_every_tool_that_takes_a_config_takes_options(monkeypatch: pytest.MonkeyPatch):
    parsers: list[argparse.ArgumentParser] = []

    def parse_args(parser: argparse.ArgumentParser, *_: object) -> None:
        parsers.append(parser)
        raise SystemExit

    monkeypatch.setattr(argparse.ArgumentParser, 'parse_args', parse_args)
    for path in TOOLS.glob('*.py'):
        if 'add_argument(' in path.read_text() and path.stem not in ('reproduce', 'prepare_dataset', 'score'):
            tool = load_tool(path.stem)
            parse = tool.parse_args if hasattr(tool, 'parse_args') else tool.main
            with pytest.raises(SystemExit):
                parse([])
    takers = [{action.dest for action in parser._actions} for parser in parsers]
    assert sum('config' in taken for taken in takers) >= 8
    assert [taken for taken in takers if 'config' in taken and 'cfg_options' not in taken] == []


# ---------------------------------------------------------------------------------------------------------------------
# Configs and checkpoints


@pytest.mark.parametrize(
    ('name', 'content', 'message'),
    [
        ('folder', None, r"config='folder' is a folder\. Give a config, such as folder/held\.py\."),
        ('custom', None, r"config='custom' is a folder\. Give a config, such as custom/\w+\.py,"),
        ('w.pth', b'\x80', r"config='w\.pth' is a checkpoint\. Give the config first, and then the checkpoint\."),
        ('w.txt', b'', r"config='w\.txt' is no config\. Give a file of Python\."),
        ('vitb_in1k_ft', None, r"is the name of weights\. Give their config, 'omnimae/finetune/vit-b_in1k', and"),
        ('c.py', b'a = (\n', r"^c\.py, or a config that it inherits, is not Python\. Line 1: '\(' was never closed"),
        ('c.py', b'# caf\xe9\n', r'^c\.py, or a config that it inherits, is not UTF-8 .* Save it as UTF-8'),
        ('c.py', b"_base_ = 'gone.py'", r'^c\.py: _base_ names .*gone\.py, which does not exist'),
        (None, None, r'config=None is no path'),
        ('folder/held2.py', None, r"'folder/held2\.py' is no file.* looked for in .*\. Did you mean 'folder/held\.py'"),
        ('./foldr', None, r"^'\./foldr' is no file, no folder and no name of a config\. .* Did you mean 'folder'"),
        ('/nowhere/cls', None, r'name of a config\. Give the path of a config, or a name, such as custom/pretrain'),
    ],
)  # fmt: skip
def test_what_is_no_config(tmp_path, monkeypatch, name, content, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'folder' / 'held.py').touch()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_config(name)


@pytest.mark.parametrize(
    ('config', 'checkpoint', 'message'),
    [
        ('classifer', None, r"^'classifer' is no file, .*\. Did you mean 'classifier'\? Give the folder of a "),
        ('WRONG', None, r'Give the folder of a training \(its --out\), the path of a config, or one of vitb_in1k_ft'),
        ('demo/linear_images', 'vitb_in1k', r"^checkpoint='vitb_in1k' is no file, .*mean 'vitb_in1k_ft'\? Give the"),
        ('demo/linear_images', 'WRONG', r'Give the folder of a training \(its --out\), a file, an address, or one of'),
    ],
)  # fmt: skip
def test_names_of_models_that_are_wrong(tmp_path, monkeypatch, config, checkpoint, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'classifier').mkdir()
    (tmp_path / 'classifier' / 'config.py').touch()
    with pytest.raises(ValueError, match=message) as error:
        ClassificationInferencer(config, checkpoint)
    assert 'pretrain' not in str(error.value)  # what it offers classifies
    if checkpoint:
        with pytest.raises(
            ValueError, match=r"^checkpoint='vitb_in1k' is no file.* one of vitb_pretrain, vitl_pretrain"
        ):
            _start('vitb_in1k', 'auto')


def test_forms_of_a_configs_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('HOME', str(tmp_path))
    (tmp_path / 'c.py').touch()
    assert find_config('~/c.py') == tmp_path / 'c.py'
    assert len({find_config(name) for name in ('demo/mae', ' demo/mae.py', 'omnimae::demo/mae.py')}) == 1


def test_a_folder_is_a_checkpoint_if_a_run_has_saved_there(tmp_path: Path):
    torch.save({'a': torch.zeros(2)}, tmp_path / 'epoch_2.pth')
    message = r'a folder is no checkpoint, unless it is of a run, .* Give a file, such as .*/epoch_2\.pth'
    with pytest.raises(ValueError, match=message):
        read_file(tmp_path)
    (tmp_path / 'c.py').write_text('a = 1')
    assert Checkpoint.read(tmp_path).path == str(tmp_path / 'epoch_2.pth')
    for name in ('epoch_2_raw', 'best_accuracy_top1_epoch_1_raw'):
        save_file({'a': torch.ones(2)}, tmp_path / f'{name}.safetensors', {'weights': 'raw'})
        assert Checkpoint.read(f'{tmp_path}/').path == str(tmp_path / f'{name}.safetensors')
    assert read_file(tmp_path)['state_dict']['a'].tolist() == [1, 1]
    (tmp_path / 'new/20260101').mkdir(parents=True)
    (tmp_path / 'new/20260101/a.log').touch()
    (tmp_path / 'new/c.py').write_text('a = 1')
    with pytest.raises(ValueError, match='new: the run of this folder has not saved a checkpoint yet. Wait for one'):
        read_file(tmp_path / 'new')
    with pytest.raises(
        ValueError, match=r'c\.py: a config is no checkpoint\. Give the config first, and then the checkpoint'
    ):
        read_file(tmp_path / 'c.py')


@pytest.mark.parametrize('value', ['', '~/my photos/', '"~/my photos"', ' ~/my photos'])
def test_variables_of_a_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str):
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.setenv('OMNIMAE_IMAGES', value)
    cfg = load_config('custom/pretrain')
    expected = f'{tmp_path}/my photos' if value else 'data/custom/images'
    assert cfg.train_dataloader.dataset.sources.images.root == expected
    assert os.environ['OMNIMAE_IMAGES'] == value


@pytest.mark.parametrize(
    ('config', 'variables', 'message'),
    [
        (
            'custom/finetune_images', {},
            r"root='data/custom_labelled/images/train' is not .* OMNIMAE_LABELLED is not set\. If your data are in "
            r'/my/data/images/train/CLASS, set OMNIMAE_LABELLED=/my/data\.',
        ),
        (
            'custom/finetune_images', dict(OMNIMAE_LABELLED='photos/'),
            r"root='photos/images/train' is not .* OMNIMAE_LABELLED=photos\. The data belong in photos/images/train/CL",
        ),
        (
            'custom/finetune_images', dict(OMNIMAE_LABELLED='my/data/images'),
            r'OMNIMAE_LABELLED=my/data/images\. Set OMNIMAE_LABELLED=my/data\.',
        ),
        (
            'custom/finetune_images', dict(OMNIMAE_LABELLED='my'),
            r"root='my/images/train' is not .* OMNIMAE_LABELLED=my\. Set OMNIMAE_LABELLED=my/data\.",
        ),
        (
            'custom/pretrain_images', dict(OMNIMAE_DATA=''),
            r'OMNIMAE_IMAGES is not set\. Set it to the folder of your files\.',
        ),
        ('custom/pretrain_images', dict(OMNIMAE_IMAGES='a b'), r"root='a b' is not .* OMNIMAE_IMAGES=a b\."),
        (
            'omnimae/finetune/vit-b_k400', {},
            r"'data/kinetics400/[^ ]+' .* OMNIMAE_DATA is not set\. If your data are in /my/data/kinetics400, set "
            r'OMNIMAE_DATA=/my/data\.',
        ),
    ],
)  # fmt: skip
def test_a_path_that_is_missing_names_its_variable(tmp_path, monkeypatch, config, variables, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'my/data/images/train').mkdir(parents=True)
    for name in ('OMNIMAE_LABELLED', 'OMNIMAE_IMAGES', 'OMNIMAE_DATA'):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    cfg = load_config(config)
    with pytest.raises(ValueError, match=message):
        DATASETS.build(cfg.train_dataloader.dataset)


# ---------------------------------------------------------------------------------------------------------------------
# Paths and lists


ENCODINGS = ['utf-8', 'utf-8-sig', 'utf-16', 'utf-16-le', 'utf-16-be', 'utf-32']


@pytest.mark.parametrize('end', ['\n', '\r\n', '\r'])
@pytest.mark.parametrize('encoding', ENCODINGS)
def test_texts_of_every_encoding(tmp_path: Path, encoding: str, end: str):
    def write(name: str, *lines: str) -> Path:
        (tmp_path / name).write_bytes(''.join(f'{line}{end}' for line in lines).encode(encoding))
        return tmp_path / name

    Image.new('RGB', (8, 8)).save(tmp_path / 'é.png')
    classes, files = write('c.txt', 'zü', 'a b'), write('l.txt', 'é.png zü', 'gone.png 1')
    skip = write('s.txt', f'{tmp_path / "gone.png"}\treason')
    dataset = ImageDataset(root=tmp_path, ann_file=files, classes=classes, skip=skip)
    assert (dataset.classes, [*dataset.paths], [*dataset.labels]) == (('zü', 'a b'), ['é.png', 'gone.png'], [0, 1])
    assert dataset.skipped_rows() == [1]
    assert [*read_csv(write('t.csv', 'id,key', '3,é'), ('id', 'key'))] == [(2, dict(id='3', key='é'))]
    assert read_json(write('t.json', '{"é": 1}')) == {'é': 1}


@pytest.mark.parametrize(
    'text',
    [
        'a,b.png,1\n"b, c.png",0',
        'path,label\r\n"a,b.png",1\r\n"b, c.png",0\r\n',
        '\ufeffpath;label\na,b.png;dog\nb, c.png;cat\n',
        ',image,label,split\n0,"a,b.png",dog,train\n1,"b, c.png",cat,val',
    ],
)
def test_lists_of_spreadsheets(tmp_path: Path, text: str):
    (tmp_path / 'labels.csv').write_text(text, newline='')
    rows = read_list(str(tmp_path / 'labels.csv'), ('.png',), classes=('cat', 'dog'))
    assert [*rows.labels] == [1, 0]
    assert [*rows.paths][1] == 'b, c.png'


def test_a_csv_file_with_blanks_is_a_list_as_before(tmp_path: Path):
    """As VideoMAE's train.csv."""
    (tmp_path / 'train.csv').write_text('a, b/1.mp4 0\nc.mp4 1\n')
    rows = read_list(str(tmp_path / 'train.csv'), ('.mp4',))
    assert ([*rows.paths], [*rows.labels]) == (['a, b/1.mp4', 'c.mp4'], [0, 1])


def test_a_list_in_another_encoding_says_so(tmp_path: Path):
    (tmp_path / 'l.txt').write_bytes('é.png cat\n'.encode('latin-1'))
    (tmp_path / 'm.txt').write_bytes('e.png chât\n'.encode('latin-1'))
    for name in 'lm':
        with pytest.raises(ValueError, match='is not in UTF-8: save it as UTF-8'):
            ImageDataset(root=tmp_path, ann_file=tmp_path / f'{name}.txt', classes=['cat'])


@pytest.mark.parametrize('key', [slice(0, 3), [0, 1], 'a.png'])
def test_rows_of_a_dataset_are_numbers(data: Path, key: Any):
    source = dict(type='ImageDataset', root=str(data / 'pictures'))
    for dataset in (ImageDataset(root=data / 'pictures'), MixedDataset(sources=dict(a=source))):
        with pytest.raises(TypeError, match=r'one sample a row.*Subset\(dataset, range\(3\)\)'):
            dataset[key]
        assert dataset[np.int64(0)]['clips']


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(ann_file='{folder}'), r'ann_file=.* is a folder\. Give it as root'),
        (dict(classes='{folder}'), r'classes=.* is a folder\. Give a file'),
        (dict(ann_file=['a.png']), r"ann_file=\['a\.png'\] is no path"),
        (dict(root=5), r'root=5 is no path'),
    ],
)
def test_what_is_no_list(data: Path, arguments: dict, message: str):
    given = {key: str(data) if value == '{folder}' else value for key, value in arguments.items()}
    with pytest.raises(ValueError, match=message):
        ImageDataset(**{'root': str(data / 'pictures'), **given})


def test_a_mixture_without_one_modality_names_the_config(data: Path):
    sources = dict(
        a=dict(type='ImageDataset', root=str(data / 'pictures')), b=dict(type='VideoDataset', root='/nowhere')
    )
    with pytest.raises(ValueError, match=r"'b': root='/nowhere' .* no videos, take .* custom/pretrain_images or"):
        MixedDataset(sources=sources)


# ---------------------------------------------------------------------------------------------------------------------
# Launchers


@pytest.mark.parametrize(
    ('launcher', 'environment', 'message'),
    [
        ('none', dict(WORLD_SIZE='2', RANK='1'), 'WORLD_SIZE=2 in the environment: .* Add --launcher pytorch'),
        ('none', dict(SLURM_STEP_NUM_TASKS='8', SLURM_PROCID='0'), 'SLURM_STEP_NUM_TASKS=8 .* Add --launcher slurm'),
        ('pytorch', {}, '--launcher pytorch: RANK is not in the environment, .*tools/dist_train.sh'),
        ('slurm', {}, '--launcher slurm: SLURM_PROCID is not in .*tools/slurm_train.sh'),
        ('none', dict(WORLD_SIZE='1', SLURM_STEP_NUM_TASKS='1'), None),
    ],
)  # fmt: skip
def test_ranks_and_launcher_belong_together(config, monkeypatch, launcher, environment, message):
    for name in ('WORLD_SIZE', 'RANK', 'SLURM_STEP_NUM_TASKS', 'SLURM_PROCID'):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    cfg = load_config(config)
    cfg.launcher = launcher
    if message is None:
        setup_distributed(cfg)
        return
    with pytest.raises(ValueError, match=message):
        setup_distributed(cfg)


# ---------------------------------------------------------------------------------------------------------------------
# Settings of MMEngine


def test_checkpoints_in_another_folder_are_made_and_gone_on_from(config: Path, tmp_path: Path):
    options = {'default_hooks.checkpoint.out_dir': str(tmp_path / 'disk' / 'big')}
    build_runner(config, tmp_path / 'work', {**options, 'train_cfg.max_epochs': 1}).train()
    assert (tmp_path / 'disk' / 'big' / 'work' / 'epoch_1.pth').is_file()
    assert find_latest_checkpoint(str(tmp_path / 'work')) == str(tmp_path / 'disk' / 'big' / 'work' / 'epoch_1.pth')
    runner = build_runner(config, tmp_path / 'work', {**options, 'resume': True})
    runner.train()
    assert runner.epoch == 2


def test_the_profiler_hook_and_runs_without_a_visualizer(config: Path, tmp_path: Path, monkeypatch, capsys):
    hook = 'custom_hooks=[dict(type=ProfilerHook,on_trace_ready=dict(type=log_trace,row_limit=3))]'
    for number, words in enumerate(
        [['visualizer=None', hook], ['visualizer.vis_backends=None', 'val_dataloader=None']]
    ):
        words += ['val_cfg=None', 'val_evaluator=None', 'val_dataloader=None', 'train_cfg.max_epochs=1']
        work = ['--work-dir', str(tmp_path / f'{number}')]
        monkeypatch.setattr('sys.argv', ['train', str(config), *work, '--cfg-options', *words])
        load_tool('train').main()
        assert (tmp_path / f'{number}' / 'epoch_1.pth').is_file()
    assert 'Self CPU time total' in capsys.readouterr().out


@pytest.mark.parametrize('kind', ['Checkpoint', 'Pretrained'])
def test_a_published_layout_starts_a_model_by_either_name(config: Path, tmp_path: Path, kind: str, caplog):
    torch.manual_seed(1)
    cfg = load_config(config)
    model = MODELS.build(cfg.model)
    released = export({key: value + 1 for key, value in model.state_dict().items()})
    torch.save(released, tmp_path / 'released.torch')
    runner = build_runner(
        config, tmp_path / 'work', {'model.init_cfg': dict(type=kind, checkpoint=str(tmp_path / 'released.torch'))}
    )
    runner._init_model_weights()
    started = runner.model.state_dict()
    assert torch.equal(started['backbone.patch_embed.weight'], model.state_dict()['backbone.patch_embed.weight'] + 1)
    log = next((tmp_path / 'work').rglob('*.log')).read_text()
    assert f'Weights from {tmp_path}/released.torch (layout omnimae): loaded' in log
    other = {'model.init_cfg': dict(type=kind, checkpoint=str(tmp_path / 'other.pth'))}
    torch.save({'a.weight': torch.zeros(2)}, tmp_path / 'other.pth')
    with pytest.raises(ValueError, match=r'other\.pth'):
        build_runner(config, tmp_path / 'other', other)._init_model_weights()


# ---------------------------------------------------------------------------------------------------------------------
# A full disk


@HOOKS.register_module()
class FullDiskHook(Hook):
    """From the second step to the end of the fourth no file grows beyond the size that the log has now."""

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        if runner.iter in (1, 4):
            files = [path.stat().st_size for path in Path(runner.log_dir).rglob('*') if path.is_file()]
            soft = resource.RLIM_INFINITY if runner.iter == 4 else 100
            assert min(files) > 100
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, resource.RLIM_INFINITY))


def test_a_full_disk_costs_lines_of_logs_and_says_which(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    backends = [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]
    options = {
        'custom_hooks': [dict(type='FullDiskHook')],
        'default_hooks.logger.interval': 1,
        'visualizer.vis_backends': backends,
        'train_cfg.max_epochs': 6,
        'default_hooks.checkpoint.interval': 6,
        'val_dataloader': None, 'val_cfg': None, 'val_evaluator': None,
    }  # fmt: skip
    runner = build_runner(config, tmp_path / 'work', options)
    try:
        runner.train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    lines = (Path(runner.log_dir) / 'vis_data' / 'scalars.json').read_text().splitlines()
    assert [json.loads(line)['step'] for line in lines] == [1, 5, 6]
    said = ''.join(capsys.readouterr())
    for place in (Path(runner.log_dir, f'{runner.timestamp}.log'), lines and 'scalars.json', 'vis_data'):
        assert said.count(f'{place} cannot be written (File too large). Training continues') == 1, place
    assert 'Logging error' not in said
