"""Configs: MMEngine files, checked for mistyped keys, types and arguments before anything is built.

MMEngine ignores ``train_cgf = dict(...)``, and notices a mistyped argument only when it builds that part.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import os
import re
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mmengine.config.config as config_module
import mmengine.hub.hub as hub_module
from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.utils import get_installed_path, import_modules_from_strings

from omnimae.checking import PARTS, TOP_LEVEL, Checker, hint
from omnimae.fitting import parameters_of
from omnimae.options import OptionAction as OptionAction
from omnimae.registry import DATASETS
from omnimae.structures import VARIABLES
from omnimae.zoo import ZOO

# In a checkout these are links to configs/.
PACKAGED = Path(__file__).parent / '.mim' / 'configs'


def offer_configs() -> None:
    """Let MMEngine find ``_base_ = 'omnimae::custom/pretrain.py'`` and ``mmengine.hub.get_config('omnimae::...')``.

    MMEngine 0.10.7 has a list of the packages that have configs. It looks in the wrong folder for one that was
    installed with ``pip install -e``.
    """
    MODULE2PACKAGE.setdefault('omnimae', 'omnimae')
    for module in (config_module, hub_module):
        module.get_installed_path = _installed_path


def _installed_path(package: str) -> str:
    return str(Path(__file__).parent) if package == 'omnimae' else get_installed_path(package)


def find_config(name: str | os.PathLike, others: Collection[str] = ()) -> Path:
    """Find a config by its path, or by its name below ``configs/``: 'omnimae/vit-b_in1k-ssv2'.

    ``configs/`` of the current folder comes first, then the configs of the package.

    Args:
        name: the path or the name, with or without 'configs/' and '.py'.
        others: names of weights that an error may suggest. They tell that the folder of a training is allowed, too.
    """
    if not isinstance(name, str | os.PathLike):
        raise ValueError(f'config={name!r} is no path. Give the path or the name of a config.')
    path, folders = Path(os.fspath(name).strip()).expanduser(), [Path('configs'), PACKAGED]
    if path.is_file():
        if path.suffix in ('.pth', '.pt', '.torch', '.ckpt', '.bin', '.safetensors'):
            raise ValueError(
                f'config={os.fspath(name)!r} is a checkpoint. Give the config first, and then the checkpoint.'
            )
        if path.suffix not in ('.py', '.json', '.yaml', '.yml'):
            raise ValueError(f'config={os.fspath(name)!r} is no config. Give a file of Python.')
        return path
    text = str(path).removeprefix('omnimae::').removeprefix('configs/').removesuffix('.py')
    for file in (folder / f'{text}.py' for folder in folders):
        if file.is_file():
            return file
    if (found := next((x for x in (path, *(each / text for each in folders)) if x.is_dir()), None)) is not None:
        held = sorted(str(x).removeprefix(f'{PACKAGED}{os.sep}') for x in found.glob('*.py'))
        some = ', '.join(held[:3] or ['custom/pretrain'])
        raise ValueError(f'config={os.fspath(name)!r} is a folder. Give a config, such as {some}.')
    if text in ZOO:
        raise ValueError(
            f'config={text!r} is the name of weights. Give their config, {ZOO[text].config!r}, and {text!r} as the '
            'checkpoint.'
        )
    names = {path.relative_to(folder).with_suffix('').as_posix() for folder in folders for path in folder.rglob('*.py')}
    beside = {str(file) for file in path.parent.glob('*.py')} | {str(x.parent) for x in path.parent.glob('*/*.py')}
    near = difflib.get_close_matches(str(path), beside, 1) or difflib.get_close_matches(text, {*names, *others}, 1)
    known = 'the path of a config, or a name, such as custom/pretrain, omnimae/vit-b_in1k-ssv2'
    if others:
        known = f'the folder of a training (its --out), the path of a config, or one of {", ".join(others)}'
    remedy = f'Did you mean {near[0]!r}?' if near else ''
    if others or not near:
        remedy = f'{remedy} Give {known}.'.lstrip()
    place = '' if path.is_absolute() else f' It was looked for in {Path.cwd()}.'
    raise ValueError(f'{os.fspath(name)!r} is no file, no folder and no name of a config.{place} {remedy}')


def load_config(path: str | os.PathLike, cfg_options: Mapping[str, Any] | None = None) -> Config:
    """Read a config, apply ``--cfg-options`` and check the result.

    Variables that the file or an inheriting file reads (``_base_.NAME``) are helpers. The result does not have them,
    since changing them there would change nothing.

    ``interpolate_positions=True`` allows training with crops and clips of another size than the model's ``clip_size``,
    for which its positions are made.

    Args:
        path: its path, or its name, see `find_config`.
        cfg_options: dotted keys and their values.

    Raises:
        ValueError: no such config, an unknown key, type or argument, or two values that contradict each other. Names
            the file and a similar name.
    """
    options, path = dict(cfg_options or {}), find_config(path)
    offer_configs()
    try:
        files = [path, *_inherited(path)]
        with _plain_variables(files), warnings.catch_warnings():
            # MMEngine imports it for `_base_ = 'omnimae::...'`. Mended in MMEngine 0.11.0; until then setuptools<81.
            warnings.filterwarnings('ignore', message='pkg_resources is deprecated', category=UserWarning)
            loaded = Config.fromfile(str(path))
    except SyntaxError as error:
        fault = error.__context__ if isinstance(error.__context__, SyntaxError) else error  # MMEngine has no line
        raise ValueError(
            f'{path}, or a config that it inherits, is not Python. Line {fault.lineno}: {fault.msg}. Correct it.'
        ) from error
    except UnicodeDecodeError as error:
        raise ValueError(f'{path}, or a config that it inherits, is not UTF-8 ({error}). Save it as UTF-8.') from error
    except FileNotFoundError as error:
        raise ValueError(f'{path}: _base_ names {error.filename}, which does not exist. Correct it.') from error
    _drop_scope(loaded._cfg_dict)
    _check_variables(files)
    cfg = Config(
        {key: value for key, value in loaded.items() if key in TOP_LEVEL},
        cfg_text=loaded.text,
        filename=loaded.filename,
        env_variables=loaded.env_variables,
        # With a long path in the config yapf takes seconds, six times at a start and once a checkpoint.
        format_python_code=False,
    )
    for key, value in options.items():
        name = key.split('.')[0]
        if name not in TOP_LEVEL:
            raise ValueError(f'--cfg-options: {key}={value!r}: there is no key {name!r}{hint(name, TOP_LEVEL)}')
        _check_place(cfg, key, value)
    _make_room(cfg, options)
    cfg.merge_from_dict(options)
    if any(key.split('.')[0] == 'custom_imports' for key in options):  # MMEngine imports what the file says
        imports = cfg.get('custom_imports')
        import_modules_from_strings(imports.get('imports') if isinstance(imports, Mapping) else None)
    _leave_out(cfg)
    if cfg.get('default_scope') != 'omnimae':
        raise ValueError(
            f"{path}: default_scope is {cfg.get('default_scope')!r}, it must be 'omnimae'. "
            'Inherit _base_/default_runtime.py.'
        )
    Checker(files, options).check(cfg)
    return cfg


def _drop_scope(value: Any) -> None:
    """Remove the default scope, which ``_base_ = 'omnimae::...'`` writes into every part.

    MMEngine passes it to functions, which have no such argument.
    """
    if isinstance(value, dict):
        if value.get('_scope_') == 'omnimae':
            del value['_scope_']
        value = [*value.values()]
    for one in value if isinstance(value, list | tuple) else ():
        _drop_scope(one)


def _check_place(cfg: Config, key: str, value: Any) -> None:
    """Refuse an option whose place is no dict or list, and one that would change nothing."""
    option, where = f'--cfg-options: {key}={value!r}', ''
    place: Any = dict(cfg.items())
    parent: Any = None
    for word in key.split('.'):
        parent = place
        if isinstance(place, list | tuple):
            if not word.isdigit() or int(word) >= len(place):
                raise ValueError(f'{option}: {where} has {len(place)} items, counted from 0, and no {word!r}.')
            place = place[int(word)]
        elif isinstance(place, Mapping):
            place = place.get(word)
        elif place is not None and where != 'train_dataloader.batch_size':
            raise ValueError(f'{option}: {where} is {place!r}, and has no {word!r}.')
        where = f'{where}.{word}'.lstrip('.')
    is_list = isinstance(place, list | tuple)
    if is_list and isinstance(value, Mapping):
        raise ValueError(f'{option}: {where} is a list of {len(place)}. Give a list, or {where}.0 and so on.')
    if value is None and isinstance(parent, list | tuple):
        raise ValueError(f'{option}: None does not remove an item. Give the whole list without it.')
    if value == {} and isinstance(place, Mapping) and place:
        raise ValueError(f'{option}: changes nothing, because dicts are merged. Give {key}=None, or some of its keys.')


def _make_room(cfg: Config, options: Mapping[str, Any]) -> None:
    """Let a dict replace None, and ``train_dataloader.batch_size.video=32`` replace one number."""
    for key, value in options.items():
        words = key.split('.')
        place: Any = cfg
        for number, word in enumerate(words):
            inner = place.get(word) if isinstance(place, Mapping | Config) else None
            is_size = words[: number + 1] == ['train_dataloader', 'batch_size'] and isinstance(inner, int)
            if (inner is None or is_size) and word in place and (number + 1 < len(words) or isinstance(value, Mapping)):
                del place[word]
            if not isinstance(inner, Mapping):
                break
            place = inner


def _leave_out(cfg: Config) -> None:
    """Drop parts that are None, keys whose default is not None, and settings of workers if there are no workers."""
    for key in [key for key, value in cfg.items() if value is None]:
        if TOP_LEVEL[key].default not in (None, inspect.Parameter.empty):
            cfg.pop(key)
    waiting: list[Any] = [dict(cfg.items())]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list | tuple):
            waiting += value
        elif isinstance(value, Mapping):
            waiting += value.values()
            inner: Any
            for key, inner in value.items():
                if key in PARTS and isinstance(inner, dict) and 'type' not in inner:
                    absent = [name for name, part in inner.items() if part is None]
                elif key.endswith('_dataloader') and isinstance(inner, dict) and inner.get('num_workers', 0) == 0:
                    absent = [name for name in ('persistent_workers', 'prefetch_factor') if name in inner]
                else:
                    continue
                for name in absent:
                    del inner[name]


def default_work_dir(path: str | os.PathLike) -> str:
    """``work_dirs/`` and the path of a config below ``configs/``. Configs of the same name have different folders."""
    parts = Path(path).absolute().with_suffix('').parts
    below = parts[len(parts) - parts[::-1].index('configs') :] if 'configs' in parts[:-1] else parts[-1:]
    return str(Path('work_dirs', *below))


def infer_num_classes(cfg: Config, classes: Sequence[str] | None = None) -> None:
    """Replace ``num_classes=None`` of the model, or of a k-NN test, by the number of classes of the training data.

    If these are folders, validation and test data get the same class names in the same order. Some may be absent there.

    Args:
        cfg: the config.
        classes: names that a checkpoint has. The training data are not needed then.
    """
    test: Any = cfg.get('test_cfg') or {}
    if 'bank_dataloader' in test and test.get('num_classes') is None:
        bank = test['bank_dataloader']['dataset']
        test['num_classes'], names = _classes_of(bank, 'test_cfg.bank_dataloader', 'test_cfg')
        _give_classes([cfg.test_dataloader], names)
    if cfg.model.get('num_classes', 0) is None:
        if classes is None:
            cfg.model.num_classes, names = _classes_of(cfg.train_dataloader.dataset, 'train_dataloader', 'model')
        else:
            cfg.model.num_classes, names = len(classes), classes
        _give_classes(filter(None, (cfg.get('val_dataloader'), cfg.get('test_dataloader'))), names)


def _give_classes(loaders: Iterable[Config], names: Sequence[str] | None) -> None:
    for loader in loaders:
        for source in loader.dataset.get('sources', {}).values():
            takes_classes = 'classes' in parameters_of(DATASETS.get(source.type))[0]
            if names and takes_classes and source.get('ann_file') is None:
                source.setdefault('classes', list(names))


def _classes_of(dataset_cfg: Config, loader: str, part: str) -> tuple[int, Sequence[str] | None]:
    """Number of classes of training data, and their names if they are known."""
    dataset = DATASETS.build(dataset_cfg)
    counts, names = [], None
    for name, source in zip(dataset.names, dataset.sources, strict=True):
        if getattr(source, 'labels', None) is None:
            raise ValueError(
                f'{loader}: source {name!r} has no labels, which {part}.num_classes=None needs. Sort its files into a '
                'folder per class, or give an ann_file with labels.'
            )
        classes = getattr(source, 'classes', None)
        counts.append(len(classes) if classes else int(source.labels.max()) + 1)
        names = names or classes
    return max(counts), names


def _inherited(path: Path) -> Iterable[Path]:
    """Files that a config inherits from, nearest first."""
    for base in Config._get_base_files(str(path)):
        base_path = Path(Config._get_cfg_path(base, str(path))[0])
        yield base_path
        yield from _inherited(base_path)


@contextmanager
def _plain_variables(files: Iterable[Path]) -> Iterator[None]:
    """Give MMEngine the environment variables of configs without quotes, ``~`` and final slash, and no empty ones."""
    pattern = r'\{\{[\'"]?\s*\$(\w+)\s*:?\s*(\S*?)\s*[\'"]?\}\}'
    found = {pair for file in files for pair in re.findall(pattern, file.read_text(encoding='utf-8'))}
    given = {name: os.environ.pop(name) for name in {name for name, _ in found} & os.environ.keys()}
    for name, text in given.items():
        text = text.strip().strip('\'"').strip()
        if text:
            os.environ[name] = os.path.expanduser(text if len(text) < 2 or text.endswith('//') else text.rstrip('/'))
    VARIABLES.update({os.environ.get(name, default): name for name, default in found})
    try:
        yield
    finally:
        os.environ.update(given)


def _check_variables(files: list[Path]) -> None:
    """Refuse a top-level variable that is no key and that no file reads."""
    texts = [file.read_text(encoding='utf-8') for file in files]
    inherited = {name for text in texts for name in re.findall(r'\b_base_\.(\w+)', text)}
    for file, text in zip(files, texts, strict=True):
        tree = ast.parse(text)
        read = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
        for node in tree.body:
            if not isinstance(node, ast.Assign):
                continue
            for name in [target.id for target in node.targets if isinstance(target, ast.Name)]:
                if name not in {*TOP_LEVEL, *read, *inherited} | {'_base_'}:
                    raise ValueError(
                        f'{file}: {name} = {ast.unparse(node.value)[:80]}: neither the Runner nor this file reads '
                        f'{name!r}. Use it, or remove it{hint(name, TOP_LEVEL)}'
                    )
