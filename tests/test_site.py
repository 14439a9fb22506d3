"""Pages of the site that follow from the code: the API reference, costs, errors and their remedies, the navigation.

UPDATE_GOLDEN=1 python -m pytest tests/test_site.py -m 'slow or not slow' writes the tables anew.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_faults import load_tool

import omnimae
import omnimae.registry as registries
from omnimae.config import load_config
from omnimae.planning import count_step

ROOT = Path(__file__).parents[1]
DOCS = ROOT / 'docs'
API = re.compile(r'<!-- api: (.+?) -->\n(.*?)<!-- end -->', re.DOTALL)


def references() -> Iterator[Any]:
    """Each table of the reference: page, names, text."""
    for page in sorted((DOCS / 'api').glob('*.md')):
        for match in API.finditer(page.read_text()):
            yield pytest.param(page, match[1].split(), match[2], id=match[1].split()[0])


def named(name: str) -> Any:
    """What a dotted name stands for."""
    module, _, last = name.rpartition('.')
    return getattr(importlib.import_module(module), last)


def first_sentence(what: Any) -> str:
    """Of a docstring."""
    text = ' '.join(inspect.getdoc(what).split('\n\n')[0].split())
    return re.split(r'(?<=[.:;])\s', text, maxsplit=1)[0].rstrip('.:;').replace('``', '`').replace('|', '\\|')


@pytest.mark.parametrize(('page', 'names', 'text'), [*references()])
def test_the_reference_says_what_docstrings_say(page: Path, names: list[str], text: str):
    lines = ['| name | what it is |', '|---|---|']
    for name in names:
        module = importlib.import_module(inspect.unwrap(named(name)).__module__)
        source = os.path.relpath(module.__file__, page.parent)
        lines.append(f'| [`{name.rpartition(".")[2]}`]({source}) | {first_sentence(named(name))} |')
    expected = '\n'.join(lines) + '\n'
    if os.environ.get('UPDATE_GOLDEN'):
        marks = f'<!-- api: {" ".join(names)} -->\n'
        page.write_text(page.read_text().replace(marks + text, marks + expected))
    else:
        assert text == expected


def test_the_reference_has_what_configs_and_the_guides_name():
    """Every component of the registries, what the package itself offers, and each of its names that a guide uses."""
    shown = {inspect.unwrap(named(name)) for _, names, _ in (param.values for param in references()) for name in names}
    children = [child for child in vars(registries).values() if isinstance(child, registries.Registry)]
    ours = set()
    for child in children:
        child.import_from_location()
        ours |= {part for part in child.module_dict.values() if part.__module__.startswith('omnimae.')}
    ours |= {named(f'omnimae.{module}.{name}') for name, module in omnimae._LAZY.items()}
    assert sorted(f'{part.__module__}.{part.__qualname__}' for part in ours - shown) == []
    pages = [ROOT / 'README.md', *DOCS.glob('*.md')]
    used = {name for page in pages for line in re.findall(r'^\s*from (omnimae\S*) import (.+)$', page.read_text(), re.M)
            for name in (f'{line[0]}.{word.strip()}' for word in line[1].split(','))}  # fmt: skip
    used -= {f'omnimae.registry.{name}' for name in vars(registries)}
    assert sorted(name for name in used if named(name) not in shown) == []


def test_the_reference_has_each_name_once():
    names = [name for param in references() for name in param.values[1]]
    assert sorted({name for name in names if names.count(name) > 1}) == []


# ---------------------------------------------------------------------------------------------------------------------
# Costs

COSTS = DOCS / 'cost.md'
OWN = ['images=10000', 'videos=1000']
PLANS = {  # table -> GPUs, cards, configs
    'own': (1, ('3090', '4090', 'a100-80', 'h100'), (
        'custom/finetune_images', 'custom/finetune_videos', 'custom/finetune', 'custom/linear_images',
        'custom/pretrain_from_released', 'custom/pretrain_images', 'custom/pretrain_videos', 'custom/pretrain',
    )),
    'pretraining': (8, ('a100-80', 'h100', 'h200'), (
        'omnimae/vit-b_in1k-ssv2', 'omnimae/vit-b_in1k-k400', 'omnimae/vit-l_in1k-ssv2', 'omnimae/vit-h_in1k-ssv2',
    )),
    'fine-tuning': (8, ('a100-80', 'h100', 'h200'), tuple(
        f'omnimae/finetune/vit-{size}_{data}' for size in 'blh' for data in ('in1k', 'ssv2', 'k400')
    )),
}  # fmt: skip
CHEAP = 'custom/finetune_images'


def plans() -> Iterator[Any]:
    """Each row of the tables of costs."""
    for table, (_, _, configs) in PLANS.items():
        for config in configs:
            yield pytest.param(table, config, marks=[] if config == CHEAP else pytest.mark.slow, id=config)


def values(text: str, name: str) -> list[str]:
    """A line of what the tool prints: a value for each source."""
    [line] = re.findall(rf'^  {name} +(.+)$', text, re.M)
    return re.split(r' {2,}', line.strip())


def planned(table: str, config: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> str:
    """A row: what `tools/plan.py` prints for each card. A step is counted once for all cards."""
    gpus, cards, _ = PLANS[table]
    path = ROOT / 'configs' / f'{config}.py'
    words = [str(path), '--gpus', str(gpus)]
    if table == 'own':
        sources = load_config(path).train_dataloader.dataset.sources
        words += ['--rows', *(row for row in OWN if row.partition('=')[0] in sources)]
        words += [] if 'pretrain' in config else ['--cfg-options', 'model.num_classes=10']
    tool = load_tool('plan')
    counts: dict[str, Any] = {}

    def count_once(model: Any, inputs: Any, **kwargs: Any) -> Any:
        key = str({name: getattr(x, 'shape', x) for name, x in inputs(1).items()})
        return counts.get(key) or counts.setdefault(key, count_step(model, inputs, **kwargs))

    monkeypatch.setattr(tool, 'count_step', count_once)
    hours, fitting = [], ''
    for card in cards:
        tool.main([*words, '--gpu', card])
        text = capsys.readouterr().out
        hours += re.findall(r'^The whole recipe: (.+?) hours', text, re.M)
        if card == '4090':
            fitting = f' {" / ".join(values(text, "largest that makes the global batch size"))} |'
    sizes, memory, epochs = (
        values(text, name) for name in ('batch size of the config', 'all, at the batch size of the config', 'hours of')
    )
    cells = [f'`{config}`', epochs[0].split()[0], ' / '.join(sizes), ' / '.join(memory)]
    return f'| {" | ".join(cells)} |{fitting} {" | ".join(hours)} |'


def table_of(name: str, rows: str) -> str:
    """A table of costs with its head."""
    gpus, cards, _ = PLANS[name]
    heads = ['config', 'epochs', 'batch on a GPU', 'GiB', *(['batch in 24 GB'] if '4090' in cards else [])]
    heads += [f'hours, {f"{gpus} x " if gpus > 1 else ""}{card}' for card in cards]
    return f'| {" | ".join(heads)} |\n{"|---" * len(heads)}|\n{rows}'


@pytest.mark.parametrize(('table', 'config'), [*plans()])
def test_costs_are_those_of_the_plan(table, config, monkeypatch, capsys):
    text = COSTS.read_text()
    [shown] = re.findall(rf'<!-- plan: {table} -->\n(.*?)<!-- end -->', text, re.DOTALL)
    rows = {line.split('`')[1]: line for line in shown.splitlines() if '`' in line}
    row = planned(table, config, monkeypatch, capsys)
    if os.environ.get('UPDATE_GOLDEN'):
        rows[config] = row
        lines = ''.join(f'{rows[name]}\n' for name in PLANS[table][2] if name in rows)
        marks = f'<!-- plan: {table} -->\n'
        COSTS.write_text(text.replace(marks + shown, marks + table_of(table, lines)))
    else:
        assert rows[config] == row


def test_tables_of_costs_have_the_plans():
    text = COSTS.read_text()
    for table, (_, _, configs) in PLANS.items():
        [shown] = re.findall(rf'<!-- plan: {table} -->\n(.*?)<!-- end -->', text, re.DOTALL)
        assert re.findall('`(.+?)`', shown) == [*configs]
        assert shown.startswith(table_of(table, ''))


# ---------------------------------------------------------------------------------------------------------------------
# Errors and pages

OTHERS = ('CUDA out of memory', 'libGL.so.1: cannot open shared object file')  # not errors of this package


def texts_of_the_code() -> Iterator[str]:
    """All texts of the package and the tools, with an ellipsis in place of each value."""
    for path in (*(ROOT / 'omnimae').rglob('*.py'), *(ROOT / 'tools').glob('*.py')):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                yield ''.join(part.value if isinstance(part, ast.Constant) else '…' for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_errors_that_are_explained_are_raised():
    headings = re.findall(r'^### `(.+)`$', (DOCS / 'troubleshooting.md').read_text(), re.M)
    texts = [' '.join(text.split()) for text in texts_of_the_code()]
    assert len(headings) > 25
    assert [text for text in headings if text not in OTHERS and not any(text in one for one in texts)] == []


def test_each_page_is_in_the_navigation():
    nav = re.findall(r'([\w/]+\.md)$', (ROOT / 'mkdocs.yml').read_text().split('nav:')[1], re.M)
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob('*.md')}
    assert {*nav} >= pages | {'configs/README.md', 'readme.md', 'CHANGELOG.md', 'CONTRIBUTING.md'}
    assert len({*nav}) == len(nav)


def test_numbers_in_tables_stay_whole(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    page = importlib.import_module('docs.build').page
    assert page('x.md', '| 5 ± 0.8 % |\n5 ± 0.8 %\n', set()) == '| 5\xa0±\xa00.8\xa0% |\n5 ± 0.8 %\n'


def test_names_and_arxiv_numbers_become_links(monkeypatch):
    markdown = pytest.importorskip('markdown')
    monkeypatch.syspath_prepend(ROOT)

    def link(name: str, text: str) -> str:
        return f'<autoref identifier="omnimae.{name}" optional="optional"><code>{text}</code></autoref>'

    head = link('models.mae_head.MAEHead', 'MAEHead')
    for text, expected in [
        ('``MAEHead``, `MAEHead`', f'{head}, <code>MAEHead</code>'),  # the first of a text
        ('`omnimae.finetune()`', link('own_data.finetune', 'omnimae.finetune()')),
        ('`Masks.from_hidden`', link('structures.Masks.from_hidden', 'Masks.from_hidden')),
        ('`predict`, `Nothing`', '<code>predict</code>, <code>Nothing</code>'),  # a method of many classes
        ('[`MAEHead`](x.md)', '<a href="x.md"><code>MAEHead</code></a>'),
        ('MAE (arXiv:2111.06377)', 'MAE (<a href="https://arxiv.org/abs/2111.06377">arXiv:2111.06377</a>)'),
        ('`a --b c`, `-`', '<code>a <span class="whole">--b</span> c</code>, <code>-</code>'),  # see site.css
        (f'`{"a-b" * 9}`', f'<code>{"a-b" * 9}</code>'),
        ('[arXiv:2111.06377](x.md)', '<a href="x.md">arXiv:2111.06377</a>'),
    ]:
        assert markdown.markdown(text, extensions=['docs.links']) == f'<p>{expected}</p>'
