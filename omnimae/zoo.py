"""Published weights by name, and OpenMMLab's index of them.

In a checkout, `python -m omnimae.zoo` writes the index: ``model-index.yml`` and ``configs/omnimae/metafile.yml``. mim
and `mmengine.hub` read it.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import yaml

RELEASED = 'https://dl.fbaipublicfiles.com/omnivore/omnimae_ckpts'
METAFILE = 'configs/omnimae/metafile.yml'
BENCHMARKS = dict(in1k=('Image Classification', 'ImageNet-1K'), ssv2=('Action Recognition', 'Something-Something V2'))


class Published(NamedTuple):
    """Published weights and their config.

    Attributes:
        config: name of the config, see `find_config`.
        url: of the checkpoint.
        parameters: of the model, in millions.
        accuracy: the authors' top-1 in percent; None for a pretraining.
    """

    config: str
    url: str
    parameters: float
    accuracy: float | None


# README of https://github.com/facebookresearch/omnivore/tree/main/omnimae; docs/zoo.md also has licences and sizes
ZOO = {
    f'vit{size}_{name}': Published(
        f'omnimae/{config.format(size)}', f'{RELEASED}/vit{size}_{name}.torch', parameters, accuracy
    )
    for name, config, rows in (
        ('pretrain', 'vit-{}_in1k-ssv2', dict(b=(94.2, None), l=(317.8, None), h=(657.7, None))),
        ('in1k_ft', 'finetune/vit-{}_in1k', dict(b=(87.0, 83.0), l=(304.9, 85.1), h=(632.5, 86.5))),
        ('ssv2_ft', 'finetune/vit-{}_ssv2', dict(b=(86.4, 69.5), l=(304.1, 74.2), h=(631.4, 75.3))),
    )
    for size, (parameters, accuracy) in rows.items()
}
PRETRAINED = [name for name, published in ZOO.items() if published.accuracy is None]
CLASSIFIERS = [name for name in ZOO if name not in PRETRAINED]


def find_checkpoint(name: str | os.PathLike, names: Collection[str] = tuple(ZOO)) -> str | os.PathLike:
    """Look up the address of published weights. A path or another address is returned as it is.

    Args:
        name: in ``ZOO``, a path or an address.
        names: those that an error may suggest.

    Raises:
        ValueError: no such name, and no such path.
    """
    text = os.fspath(name)
    if text in ZOO:
        return ZOO[text].url
    if '://' not in text and not Path(text).expanduser().exists():
        near = difflib.get_close_matches(text, names, 1)
        raise ValueError(
            f'checkpoint={text!r} is no file, no folder and no name of weights. It was looked for in {Path.cwd()}. '
            f'{f"Did you mean {near[0]!r}? " if near else ""}Give the folder of a training (its --out), a file, an '
            f'address, or one of {", ".join(names)}.'
        )
    return name


def index() -> dict[str, str]:
    """Path of each file of the index in a checkout -> its text."""
    paper = dict(URL='https://arxiv.org/abs/2206.08356')
    paper['Title'] = 'OmniMAE: Single Model Masked Pretraining on Images and Videos'
    metafile = dict(
        Collections=[dict(Name='OmniMAE', Metadata=dict(Architecture=['Vision Transformer']), Paper=paper)],
        Models=[_model(name, published) for name, published in ZOO.items()],
    )
    contents = {'model-index.yml': dict(Import=[METAFILE]), METAFILE: metafile}
    head = '# Written by `python -m omnimae.zoo`.\n'
    return {path: head + yaml.safe_dump(content, sort_keys=False, width=120) for path, content in contents.items()}


def _model(name: str, published: Published) -> dict[str, Any]:
    model: dict[str, Any] = {
        'Name': name,
        'In Collection': 'OmniMAE',
        'Metadata': dict(Parameters=round(published.parameters * 1e6), License='CC-BY-NC-4.0'),
        'Config': f'configs/{published.config}.py',
        'Weights': published.url,
    }
    if published.accuracy is not None:
        task, dataset = BENCHMARKS[name.split('_')[1]]
        model['Results'] = [dict(Task=task, Dataset=dataset, Metrics={'Top 1 Accuracy': published.accuracy})]
    return model


if __name__ == '__main__':
    for path, text in index().items():
        (Path(__file__).parents[1] / path).write_text(text)
