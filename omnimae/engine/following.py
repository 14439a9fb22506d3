"""Configs whose model has the sizes of an own run: ``follow_run=True``."""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log

from omnimae.checkpoint import find_weights, is_run
from omnimae.config import PACKAGED, load_config
from omnimae.fitting import parameters_of
from omnimae.registry import MODELS
from omnimae.stopping import is_first_rank

from .extraction import frozen_model
from .folder import find_run

# parts of a model, and their arguments that weights fit
OF_WEIGHTS = dict(
    backbone=(
        *('arch', 'embed_dim', 'depth', 'num_heads', 'mlp_ratio', 'patch_size', 'clip_size'),
        *('qkv_bias', 'positions', 'cls_token'),
    ),
    head=('embed_dim', 'depth', 'num_heads', 'mlp_ratio', 'qkv_bias', 'positions', 'cls_token', 'tokens'),
    data_preprocessor=('mean', 'std'),
)


def load_config_for(
    config: str | os.PathLike, checkpoint: str | os.PathLike | None, options: Mapping[str, Any] | None = None
) -> Config:
    """`load_config` for a checkpoint, which may be of an own run.

    If the config has ``follow_run=True``, its model gets the sizes of the run, and the norm, mean and std of the run's
    features. ``options`` win. The log says what changed.

    Args:
        config: its path or its name.
        checkpoint: folder of a run, a file in one, or other weights. None means those of the config's ``init_cfg``.
        options: dotted keys and their values.

    Raises:
        ValueError: as of `load_config`, or the folder of a run that has not saved a checkpoint yet.
    """
    cfg, options = load_config(config, options), dict(options or {})
    start = (cfg.get('model') or {}).get('init_cfg') or {}
    run = _config_of_run(checkpoint or start.get('checkpoint'))
    if run is None or not cfg.get('follow_run') or run.resolve() == Path(cfg.filename).resolve():
        return cfg
    try:
        theirs = load_config(run).model
    except (ValueError, AttributeError, ImportError, SyntaxError) as error:  # the weights may fit all the same
        print_log(f'{run} is no config that can be followed: {error}', 'current', logging.WARNING)
        return cfg
    changes = {
        key: value
        for key, value in _differences(cfg.model, theirs).items()
        if not any(f'{key}.'.startswith(f'{given}.') for given in options)
    }
    if not changes:
        return cfg
    if is_first_rank():
        told = ' '.join(f'{key}={_word(value)}' for key, value in changes.items())
        name = str(config).removeprefix(f'{PACKAGED}{os.sep}')
        print_log(f'{name} follows {run}: {told}. --cfg-options changes them.', 'current')
    return load_config(config, {**changes, **options})


def _config_of_run(checkpoint: str | os.PathLike | None) -> Path | None:
    """The config of the run that has saved a checkpoint. None if it is no run's."""
    path = Path(checkpoint or os.devnull).expanduser()
    if path.is_dir() and find_weights(path) is None:
        return find_run(path)[0]  # its error says what is missing
    # A config is a program. A file of weights is no reason to run what lies beside it, unless that is a training's.
    folder = path if path.is_dir() else path.parent if path.is_file() and is_run(path.parent) else None
    try:
        return None if folder is None else find_run(folder)[0]
    except ValueError:
        return None


def parts_of(model: Mapping[str, Any], *parts: str) -> dict[str, dict[str, Any]]:
    """What these parts of another model must have to take the weights of a model, where a config says it."""
    given = {**model, 'data_preprocessor': frozen_model(dict(model))['data_preprocessor']}
    found = {part: {key: given[part][key] for key in OF_WEIGHTS[part] if key in given[part]} for part in parts}
    return {part: values for part, values in found.items() if values}


def _differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys that differ where they must not -> values of their model."""

    def is_same(part: str) -> bool:
        return bool(ours.get(part) and theirs.get(part)) and ours[part].get('type') == theirs[part].get('type')

    if not is_same('backbone'):
        return {}
    given = parts_of(theirs, *filter(is_same, OF_WEIGHTS))
    wanted = {f'{part}.{key}': (x, ours[part].get(key)) for part, values in given.items() for key, x in values.items()}
    accepted = parameters_of(MODELS.get(ours['type']))[0]
    if 'norm' in accepted:  # of frozen features
        wanted['norm'] = frozen_model(dict(theirs))['norm'], ours.get('norm', accepted['norm'].default)
    return {f'model.{key}': value for key, (value, other) in wanted.items() if _plain(value) != _plain(other)}


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _word(value: Any) -> str:
    """A value as --cfg-options take it."""
    return ','.join(map(str, value)) if isinstance(value, list | tuple) else shlex.quote(str(value))
