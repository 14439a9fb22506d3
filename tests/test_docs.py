"""What the documentation names is there, and its tables of recipes and configs say what the configs say.

UPDATE_GOLDEN=1 python -m pytest tests/test_docs.py writes them anew.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope

from omnimae.config import load_config
from omnimae.engine import LayerDecayConstructor
from omnimae.flops import classifier_rows, pretraining_rows
from omnimae.registry import METRICS, MODELS
from omnimae.visualization.reconstructions import reconstruct_sample

ROOT = Path(__file__).parents[1]
DOCS = (ROOT / 'docs').glob('*.md')
PAGES = ('README.md', 'CONTRIBUTING.md', 'configs/README.md')
PAGES += tuple(sorted(f'docs/{path.name}' for path in (ROOT / 'docs').glob('*.md')))
RECIPES = ROOT / 'docs' / 'recipes.md'
PRETRAINING = ('config', 'clips of', 'hidden', 'decoder', 'epochs (warm-up)')
PRETRAINING += ('global batch', 'replicas', 'learning rate')
FINE_TUNING = ('config', 'epochs (warm-up)', 'global batch', 'replicas', 'learning rate', 'layer decay', 'weight decay')
FINE_TUNING += ('DropPath', 'dropout', 'test views')


def tables() -> Iterator[tuple[str, str, str]]:
    """Kind, folder and text of each table."""
    for match in re.finditer(r'<!-- (\S+): configs/(\S+) -->\n(.*?)<!-- end -->', RECIPES.read_text(), re.DOTALL):
        yield match[1], match[2], match[3]


def shared(cfg: Config) -> dict[str, str]:
    """What every training has."""
    sources = cfg.train_dataloader.dataset.sources.values()
    schedule, optimizer = cfg.param_scheduler, cfg.optim_wrapper.optimizer
    return {
        'epochs (warm-up)': f'{cfg.train_cfg.max_epochs} ({schedule.warmup_epochs:g})',
        'global batch': str(cfg.train_dataloader.batch_sampler.global_batch_size),
        'replicas': ' / '.join(str(source.get('replicas', 1)) for source in sources),
        'learning rate': f'{optimizer.lr:.3g}',
        'weight decay': f'{optimizer.weight_decay:g}',
    }


def pretraining(cfg: Config) -> dict[str, str]:
    """Of a pretraining."""
    model = cfg.model
    heads = [model.head] if 'type' in model.head else [*model.head.values()]
    decoder = {f'{head.get("depth", 4)} x {head.get("embed_dim", 384)}, {head.num_heads} heads' for head in heads}
    if 'decode_ratio' in model:
        decoder = {f'{text}, {100 * model.decode_ratio:g} % of the hidden' for text in decoder}
    if heads[0].type == 'CrossMAEHead':
        decoder = {f'cross {text}' for text in decoder}
    sizes = {source.get('num_frames', 1) for source in cfg.train_dataloader.dataset.sources.values()}
    return {
        **shared(cfg),
        'clips of': ' / '.join(f'{size} frames' if size > 1 else 'images' for size in sorted(sizes)),
        'hidden': ' / '.join(masking(one) for one in generators(model.mask_generator)),
        'decoder': ' / '.join(sorted(decoder)),
    }


def generators(cfg: Config) -> list[Config]:
    """One for all modalities, or one each."""
    return [cfg] if 'type' in cfg else [*cfg.values()]


def masking(cfg: Config) -> str:
    """Type and share of a mask, in words."""
    if cfg.type == 'DualMasking':
        return f'{masking(cfg.encoder)}; {masking(cfg.decoder)} from the decoder'
    name = re.sub(r'(?<!^)(?=[A-Z])', ' ', cfg.type.removesuffix('Masking')).lower()
    return f'{name}, all but {cfg.num_visible}' if 'num_visible' in cfg else f'{name} {100 * cfg.ratio:g} %'


def fine_tuning(cfg: Config) -> dict[str, str]:
    """Of a training with labels."""
    crops = {'ThreeCrop': 3}
    views = []
    for source in cfg.test_dataloader.dataset.sources.values():
        last = source.get('transforms', [dict(type='')])[-1]['type']
        views.append(f'{source.get("num_clips", 1)} x {crops.get(last, 1)}')
    rates = cfg.optim_wrapper.get('paramwise_cfg', {})
    return {
        **shared(cfg),
        'layer decay': f'{rates.get("layer_decay", 1):g}',
        'DropPath': f'{cfg.model.backbone.get("drop_path_rate", 0):g}',
        'dropout': f'{cfg.model.get("dropout", 0):g}',
        'test views': ' / '.join(views),
    }


def size_first(path: Path) -> str:
    """Sorts S, B, L, H, g as they grow."""
    return re.sub(r'(?<=vit-)[sblhg]', lambda match: str('sblhg'.index(match[0])), path.stem)


def written(kind: str, folder: str) -> str:
    """The table of a folder of configs."""
    heads, row_of = (PRETRAINING, pretraining) if kind == 'pretraining' else (FINE_TUNING, fine_tuning)
    lines = [f'| {" | ".join(heads)} |', '|---' * len(heads) + '|']
    for path in sorted((ROOT / 'configs' / folder).glob('*.py'), key=size_first):
        row = {'config': f'`{path.stem}`', **row_of(load_config(path))}
        lines.append(f'| {" | ".join(row[head] for head in heads)} |')
    return '\n'.join(lines) + '\n'


@pytest.mark.parametrize(('kind', 'folder', 'text'), [*tables()])
def test_recipe_tables(kind: str, folder: str, text: str):
    expected = written(kind, folder)
    if os.environ.get('UPDATE_GOLDEN'):
        marks = f'<!-- {kind}: configs/{folder} -->\n'
        RECIPES.write_text(RECIPES.read_text().replace(marks + text, marks + expected))
        text = expected
    assert text == expected


def test_every_folder_of_recipes_has_a_table():
    shown = {folder for _, folder, _ in tables()}
    methods = ('mae', 'videomae', 'mae_st', 'multimae')
    files = [path for method in methods for path in (ROOT / 'configs' / method).rglob('*.py')]
    folders = {str(path.parent.relative_to(ROOT / 'configs')) for path in files}
    assert folders | {'omnimae', 'omnimae/finetune'} == shown


@pytest.mark.parametrize('page', PAGES)
def test_files_that_are_named_exist(page: str):
    text = (ROOT / page).read_text()
    named = re.findall(r'(?<![\w/])((?:tests|tools|configs|benchmarks|docs)/[\w./-]+\.(?:py|sh|md|png|yaml))\b', text)
    named += [f'tests/{name}' for name in re.findall(r'(?<!/)\b(test_\w+\.py)\b', text)]
    table = re.search(r'^\| \| pretrain \| fine-tune .+?\n\n', text, re.DOTALL | re.MULTILINE)  # of methods
    named += [f'tests/test_{name}.py' for name in re.findall(r'`(\w+)`', table[0] if table else '')]
    links = re.findall(r'\]\((?!https?:)([^)#]+)', text)
    assert [link for link in links if not (ROOT / page).parent.joinpath(link).exists()] == []
    assert named or links
    assert [name for name in named if not (ROOT / name).exists()] == []


def index() -> Iterator[str]:
    """All configs by folder, each with the first sentence of its docstring."""
    folders: dict[str, list[Path]] = {}
    for path in sorted((ROOT / 'configs').rglob('*.py')):
        if '_base_' not in path.parts:
            folders.setdefault(path.parent.relative_to(ROOT / 'configs').as_posix(), []).append(path)
    first = ('custom', 'demo', 'omnimae')
    for folder in sorted(folders, key=lambda name: ([*first, name.split('/')[0]].index(name.split('/')[0]), name)):
        yield f'\n## {folder}\n\n| config | what it is |\n|---|---|'
        for path in folders[folder]:
            text = ast.get_docstring(ast.parse(path.read_text())) or ''
            sentence = re.split(r'(?<=\.)\s', ' '.join(text.split('\n\n')[0].split()), maxsplit=1)[0]
            yield f'| [`{path.name}`]({folder}/{path.name}) | {sentence.rstrip(".").replace("``", "`")} |'


def test_the_index_of_configs():
    page = ROOT / 'configs' / 'README.md'
    before, rest = page.read_text().split('<!-- index -->\n')
    made = '\n'.join(index()).lstrip() + '\n\n'
    if os.environ.get('UPDATE_GOLDEN'):
        page.write_text(f'{before}<!-- index -->\n{made}<!-- end -->\n')
    else:
        assert rest == f'{made}<!-- end -->\n'
    named = re.findall(r'`([a-z][\w/-]+(?:\.py|/))`', before.split('## Names')[0].replace('_NAME', '_in1k'))
    assert [name for name in named if not (ROOT / 'configs' / name).exists()] == []
    assert len(named) > 20


@pytest.mark.parametrize('page', PAGES)
def test_code_fits_a_page_of_the_site(page: str):
    """Python and comments of commands: the column of the site is as wide. A comment that does not fit goes above."""
    text = (ROOT / page).read_text()
    blocks = re.findall(r'^```(bash|python)\n(.*?)^```', text, re.MULTILINE | re.DOTALL)
    lines = [line for kind, block in blocks for line in block.splitlines() if kind == 'python' or ' # ' in line]
    assert [line for line in lines if len(line) > 92] == []


def test_a_tool_has_one_version():
    """Another one of ruff formats otherwise: a contributor's commit would fail on CI."""
    setup, hooks = ((ROOT / name).read_text() for name in ('pyproject.toml', '.pre-commit-config.yaml'))
    [version] = re.findall(r"'(ruff==[0-9.]+)'", setup)
    assert set(re.findall(r'ruff==[0-9.]+', hooks)) == {version}


def test_the_shortest_backbone_works():
    """The block of docs/extending.md pretrains, is fine-tuned with layer decay, counted and asked for features."""
    text = (ROOT / 'docs' / 'extending.md').read_text()
    [block] = re.findall(r'```python\n(# my_backbone\.py\n.*?)```', text, re.DOTALL)
    exec(compile(block, 'my_backbone.py', 'exec'), {})
    backbone = dict(type='MyBackbone', embed_dim=12, depth=2, num_heads=2, patch_size=(2, 8, 8), clip_size=(4, 16, 16))
    masks = {modality: dict(type='RandomMasking', ratio=0.5) for modality in ('image', 'video')}
    head = dict(type='MAEHead', embed_dim=8, depth=1, num_heads=2)
    with DefaultScope.overwrite_default_scope('omnimae'):
        model = MODELS.build(dict(type='MaskedAutoencoder', backbone=backbone, head=head, mask_generator=masks))
        classifier = MODELS.build(dict(type='Classifier', backbone=backbone, num_classes=3))
        wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=1.0))
        groups = LayerDecayConstructor(wrapper, dict(layer_decay=0.5)).param_groups(classifier)
    for frames, modality in ((1, 'image'), (4, 'video')):
        model(torch.randint(256, (2, 3, frames, 16, 16), dtype=torch.uint8), modality)['loss'].backward()
    assert all(x.grad is not None for x in model.parameters())
    classifier.backbone.load_state_dict(model.backbone.state_dict())
    assert classifier.predict(torch.zeros(2, 3, 4, 16, 16)).shape == (2, 3)
    assert {group['lr'] for group in groups} == {0.5, 0.25, 0.125, 0.0625}
    assert len(pretraining_rows(model)) == 6
    assert len(classifier_rows(classifier)) == 2


def test_the_head_of_the_guide_works():
    """It trains on images and clips, is counted, and has what pictures need."""
    text = (ROOT / 'docs' / 'extending.md').read_text()
    [block] = re.findall(r'```python\n(# my_head\.py\n.*?)```', text, re.DOTALL)
    exec(compile(block, 'my_head.py', 'exec'), {})
    sizes = dict(embed_dim=12, depth=1, num_heads=2, patch_size=(2, 8, 8), clip_size=(4, 16, 16))
    masks = {modality: dict(type='RandomMasking', ratio=0.5) for modality in ('image', 'video')}
    backbone, head = dict(type='SpatioTemporalViT', **sizes), dict(type='MyHead')
    with DefaultScope.overwrite_default_scope('omnimae'):
        model = MODELS.build(dict(type='MaskedAutoencoder', backbone=backbone, head=head, mask_generator=masks))
    for frames, modality in ((1, 'image'), (4, 'video')):
        clip = torch.randint(256, (2, 3, frames, 16, 16), dtype=torch.uint8)
        model(clip, modality)['loss'].backward()
        assert reconstruct_sample(model, dict(clips=dict(rgb=clip[:1]), modality=modality, id='a')).keys() == {'a'}
    assert all(x.grad is not None for x in model.parameters())
    assert len(pretraining_rows(model)) == 6


def test_the_metric_of_the_guide_works():
    text = (ROOT / 'docs' / 'extending.md').read_text()
    [block] = re.findall(r'```python\n(# my_metrics\.py\n.*?)```', text, re.DOTALL)
    exec(compile(block, 'my_metrics.py', 'exec'), {})
    with DefaultScope.overwrite_default_scope('omnimae'):
        metric = METRICS.build(dict(type='MeanMargin'))
    for row in ([0.5, 0.2, 0.3], [0.1, 0.9, 0.0]):
        metric.process({}, [dict(probabilities=torch.tensor(row))])
    assert metric.evaluate(2) == {'margin/mean': pytest.approx(0.5)}
