"""Configs: MMEngine files, checked for mistyped keys, types and arguments before anything is built.

MMEngine ignores ``train_cgf = dict(...)``, and notices a mistyped argument only when it builds that part.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import inspect
import os
import re
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import mmengine.config.config as config_module
import mmengine.hub.hub as hub_module
from mmengine.config import Config, DictAction
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.registry import EVALUATOR, LOG_PROCESSORS, MODEL_WRAPPERS, VISBACKENDS, VISUALIZERS, Registry
from mmengine.runner import Priority, Runner, get_priority
from mmengine.utils import get_installed_path, import_modules_from_strings
from torch import compile as torch_compile
from torch.distributed import init_process_group
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.utils.data import default_collate

from omnimae.consistency import contradictions
from omnimae.fitting import misfit, parameters_of
from omnimae.registry import (
    DATA_SAMPLERS,
    DATASETS,
    FUNCTIONS,
    HOOKS,
    LOOPS,
    METRICS,
    MODELS,
    OPTIM_WRAPPER_CONSTRUCTORS,
    OPTIM_WRAPPERS,
    OPTIMIZERS,
    PARAM_SCHEDULERS,
    TRANSFORMS,
    WEIGHT_INITIALIZERS,
)

# In a checkout these are links to configs/.
PACKAGED = Path(__file__).parent / '.mim' / 'configs'


class Section(NamedTuple):
    """What the dicts of a key describe.

    Attributes:
        registry: where their ``type`` is registered; None if they have none.
        default: the type of a dict without one.
        extra: keys that MMEngine removes before it builds.
    """

    registry: Registry | None = None
    default: str | Callable | None = None
    extra: tuple[str, ...] = ()


def _build_dataloader(
    dataset: dict,
    sampler: dict,
    batch_sampler: dict | None = None,
    batch_size: int | dict = 1,
    collate_fn: dict | Callable = default_collate,
    worker_init_fn: dict | Callable = int,
    num_workers: int = 0,
    shuffle: bool | None = None,
    drop_last: bool = False,
    pin_memory: bool = False,
    pin_memory_device: str = '',
    timeout: float = 0,
    prefetch_factor: int | None = None,
    persistent_workers: bool = False,
    in_order: bool = True,
    multiprocessing_context: str | None = None,
) -> None:
    """`Runner.build_dataloader`, which makes a DataLoader."""


def _read_besides(
    model_wrapper_cfg: dict | None = None,
    find_unused_parameters: bool = False,
    sync_bn: Literal['torch', 'mmcv'] | None = None,
    compile: bool | dict = False,
    activation_checkpointing: Sequence[str] | None = None,
    efficient_conv_bn_eval: Sequence[str] | None = None,
    interpolate_positions: bool = False,  # read in consistency.py alone
    custom_imports: dict | None = None,
    runner_type: str = 'Runner',
    log_level: Literal['DEBUG', 'INFO', 'WARNING', 'ERROR', 'CRITICAL'] | int = 'INFO',
) -> None:
    """Keys that are read besides the Runner's arguments."""


def _set_randomness(seed: int | None = None, diff_rank_seed: bool = False, deterministic: bool = False) -> None:
    """`Runner.set_randomness`, whose ``seed`` has no type."""


def _setup_env(
    cudnn_benchmark: bool = False,
    mp_cfg: dict = {},  # noqa: B006
    dist_cfg: dict = {},  # noqa: B006
    resource_limit: int = 4096,
    float32_precision: Literal['high', 'highest'] = 'high',
) -> None:
    """What `Runner.setup_env` and ``setup_distributed`` read."""


def _set_multi_processing(
    mp_start_method: Literal['fork', 'spawn', 'forkserver'] = 'fork',
    opencv_num_threads: int = 0,
    distributed: bool = False,
) -> None:
    """`mmengine.utils.dl_utils.set_multi_processing`."""


def _scale_lr(enable: bool = False, base_batch_size: int | None = None) -> None:
    """What `Runner.scale_lr` reads."""


def _paramwise(
    custom_keys: dict | None = None,
    bias_lr_mult: float | None = None,
    bias_decay_mult: float | None = None,
    norm_decay_mult: float | None = None,
    flat_decay_mult: float | None = None,
    dwconv_decay_mult: float | None = None,
    dcn_offset_lr_mult: float | None = None,
    bypass_duplicate: bool = False,
) -> None:
    """What MMEngine's DefaultOptimWrapperConstructor reads."""


_LOADER = Section(None, _build_dataloader, ('num_batch_per_epoch', 'disable_subprocess_warning'))
_HOOKS = Section(HOOKS, None, ('priority',))

SECTIONS = {
    'model': Section(MODELS),
    'data_preprocessor': Section(MODELS),
    'init_cfg': Section(WEIGHT_INITIALIZERS, None, ('override',)),
    'model_wrapper_cfg': Section(MODEL_WRAPPERS, 'MMDistributedDataParallel'),
    **dict.fromkeys((f'{name}_dataloader' for name in ('train', 'val', 'test', 'bank', 'query')), _LOADER),
    'dataset': Section(DATASETS),
    'transforms': Section(TRANSFORMS),
    'sampler': Section(DATA_SAMPLERS),
    'batch_sampler': Section(DATA_SAMPLERS),
    'collate_fn': Section(FUNCTIONS),
    'worker_init_fn': Section(FUNCTIONS),
    'train_cfg': Section(LOOPS, 'EpochBasedTrainLoop', ('by_epoch',)),
    'val_cfg': Section(LOOPS, 'ValLoop'),
    'test_cfg': Section(LOOPS, 'TestLoop'),
    **dict.fromkeys(('val_evaluator', 'test_evaluator', 'metrics'), Section(METRICS)),
    'optim_wrapper': Section(OPTIM_WRAPPERS, 'OptimWrapper', ('constructor', 'paramwise_cfg')),
    'optimizer': Section(OPTIMIZERS),
    'param_scheduler': Section(PARAM_SCHEDULERS, None, ('convert_to_iter_based',)),
    'default_hooks': _HOOKS,
    'custom_hooks': _HOOKS,
    'visualizer': Section(VISUALIZERS),
    'vis_backends': Section(VISBACKENDS),
    'log_processor': Section(LOG_PROCESSORS, 'LogProcessor'),
    'randomness': Section(None, _set_randomness),
    'env_cfg': Section(None, _setup_env),
    'auto_scale_lr': Section(None, _scale_lr),
    'custom_imports': Section(None, import_modules_from_strings),
    'mp_cfg': Section(None, _set_multi_processing),
    'dist_cfg': Section(None, init_process_group, ('heartbeat', 'port', 'timeout')),
    'compile': Section(None, torch_compile),
}

# Dicts whose keys are names of the user's choice, not sections.
NAMED = ('default_hooks', 'sources', 'mask_generator')

# Dicts within components whose ``type`` names no component.
OTHERS = ('clip_grad', 'on_trace_ready')

# Top-level keys of a config.
TOP_LEVEL = {
    name: x for function in (Runner, _read_besides) for name, x in parameters_of(function)[0].items() if name != 'cfg'
}

# Dicts whose keys are names of parts, unless they have a type; None leaves a part out.
PARTS = ('sources', 'modalities', 'mask_generator', 'head', 'tokenizers')

# Numbers that are taken from the data if they are None, see `infer_num_classes`.
INFERRED = ('model.num_classes', 'test_cfg.num_classes')

# Arguments that a component gets from the one that builds it.
GIVEN = {
    *('runner', 'dataloader', 'evaluator', 'dataset', 'sampler', 'batch_size', 'optimizer', 'params', 'parameters'),
    *('end', 'param_name', 'save_dir', 'module', 'grid', 'in_dim', 'out_channels', 'patch_size', 'embed_dim'),
}


# Words that begin an option, and an option within the value of another.
_BEGINS = re.compile(r'\s*[\w.-]*\s*=')
_WITHIN = re.compile(r'[,\s]\s*\w+(\.\w+)+\s*=')


class OptionAction(DictAction):
    """MMEngine's ``k=v ...`` on a command line. Here v may also be a dict: ``{a: 1}``, ``[dict(type=LoggerHook)]``.

    A text keeps its blanks. Blanks around "=" and within brackets are allowed.
    """

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option_string: Any = None
    ) -> None:
        """Read the options. A word that is none ends the program."""
        options = dict(getattr(namespace, self.dest, None) or {})
        for word in _joined(values):
            key, equals, text = (part.strip() for part in word.partition('='))
            if not equals or not all(key.split('.')) or text.startswith('='):
                parser.error(f'{option_string}: {word!r} is no k=v. Write it as a.b=1.')
            if key == 'launcher':
                parser.error(f'{option_string}: {word!r} would change nothing. Give --launcher.')
            if not _is_bracket(text) and (text.endswith(',') or _WITHIN.search(text)):
                parser.error(
                    f'{option_string}: {word!r} has a comma too many, or two options. Put blanks between options.'
                )
            try:
                options[key] = self._parse_iterable(text)
            except (SyntaxError, RecursionError):
                parser.error(f'{option_string}: the value of {word!r} cannot be read. Write texts in it in quotes.')
        setattr(namespace, self.dest, options)

    @staticmethod
    def _parse_iterable(val: str) -> Any:
        is_quoted = len(val) > 1 and val[0] == val[-1] and val[0] in '"\'' and val[0] not in val[1:-1]
        text = val[1:-1] if is_quoted else val
        if _is_bracket(text):
            try:
                return _literal(ast.parse(text, mode='eval').body, text)
            except SyntaxError:
                if f'{text[0]}{text[-1]}' in ('[]', '()'):  # perhaps a list of words, such as [/a/b,c]
                    items = map(OptionAction._parse_iterable, _split(text[1:-1]))
                    return tuple(items) if text[0] == '(' else [*items]
                if not is_quoted:
                    raise
        elif ',' in text and not is_quoted:
            return [*map(OptionAction._parse_iterable, _split(text))]
        return DictAction._parse_int_float_bool(text)


def _joined(words: Sequence[str]) -> list[str]:
    """Join what a shell has split at blanks: 'a', '=', '[1,', '2]' are one option."""
    options: list[str] = []
    for word in words:
        last = options[-1] if options else ''
        value = last.partition('=')[2].strip()
        begins = _BEGINS.match(word) and not word.lstrip().startswith('=')
        is_part = _is_open(value) or (last.rstrip().endswith('=') and not begins) or word.lstrip().startswith('=')
        options[-1:] = [f'{last} {word}'.strip()] if is_part else [*options[-1:], word]
    return options


def _split(text: str) -> list[str]:
    """Split at commas outside of brackets."""
    parts, depth = [''], 0
    for char in text:
        depth += (char in '([{') - (char in ')]}')
        if char == ',' and depth == 0:
            parts.append('')
        else:
            parts[-1] += char
    return [part.strip() for part in parts if part.strip()]


def _is_bracket(text: str) -> bool:
    return text.startswith(('[', '(', '{', 'dict('))


def _is_open(text: str) -> bool:
    return _is_bracket(text) and any(text.count(a) > text.count(b) for a, b in ('[]', '()', '{}'))


def _literal(node: ast.expr, source: str) -> Any:
    """Evaluate lists, dicts, numbers and texts. Anything else, such as a word, is a text."""
    inner = partial(_literal, source=source)
    match node:
        case ast.Constant(value):
            return value
        case ast.List(items) | ast.Tuple(items):
            return (list if isinstance(node, ast.List) else tuple)(map(inner, items))
        case ast.Dict(keys, values) if None not in keys:
            return dict(zip(map(inner, keys), map(inner, values), strict=True))  # type: ignore[arg-type]
        case ast.Call(ast.Name('dict'), [], keywords) if all(word.arg for word in keywords):
            return {word.arg: inner(word.value) for word in keywords}
    return DictAction._parse_int_float_bool(ast.get_source_segment(source, node))


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
        others: other names that an error may suggest.
    """
    if not isinstance(name, str | os.PathLike):
        raise ValueError(f'config={name!r} is no path. Give the path or the name of a config.')
    path, folders = Path(os.fspath(name).strip()).expanduser(), [Path('configs'), PACKAGED]
    if path.is_file():
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
    names = {path.relative_to(folder).with_suffix('').as_posix() for folder in folders for path in folder.rglob('*.py')}
    near = difflib.get_close_matches(text, {*names, *others}, 1)
    known = ', '.join(others or ('custom/pretrain', 'omnimae/vit-b_in1k-ssv2'))
    remedy = f'Did you mean {near[0]!r}?' if near else f'Give the path of a config, or a name, such as {known}.'
    raise ValueError(f'config={os.fspath(name)!r} is no file, and no name of a config. {remedy}')


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
            raise ValueError(f'--cfg-options: {key}={value!r}: there is no key {name!r}{_hint(name, TOP_LEVEL)}')
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
    _Checker(files, options).check(cfg)
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
    names = {name for file in files for name in re.findall(r'\{\{[\'"]?\s*\$(\w+)', file.read_text(encoding='utf-8'))}
    given = {name: os.environ.pop(name) for name in names & os.environ.keys()}
    for name, text in given.items():
        text = text.strip().strip('\'"').strip()
        if text:
            os.environ[name] = os.path.expanduser(text if len(text) < 2 or text.endswith('//') else text.rstrip('/'))
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
                        f'{name!r}. Use it, or remove it{_hint(name, TOP_LEVEL)}'
                    )


class _Checker:
    """Compares every dict of a config with the signature of what it builds."""

    def __init__(self, files: list[Path], options: Mapping[str, Any]) -> None:
        self.files, self.options = files, options

    def check(self, cfg: Config) -> None:
        """Walk all sections."""
        self._check_train_loop(cfg.get('train_cfg') or {})
        for key, value in cfg.items():
            if key in SECTIONS or key == 'env_cfg':
                self._walk(value, key, SECTIONS.get(key, Section()))
        top = {key: value for key, value in cfg.items() if key != 'default_hooks'}  # where None leaves one out
        self._check_values('MMEngine', TOP_LEVEL, top, '')
        self._check_constructor(cfg.get('optim_wrapper') or {})
        if (cfg.get('randomness') or {}).get('diff_rank_seed'):
            reason = 'ranks would differ in the order of data and in initial weights. Leave it out. Masks and'
            self._refuse('randomness.diff_rank_seed', True, f'{reason} augmentation differ between ranks anyway')
        for parts in (('train_dataloader', 'train_cfg', 'optim_wrapper'), *map(_parts_of, ('val', 'test'))):
            given = [part for part in parts if cfg.get(part) is not None]
            absent = next((part for part in parts if part in cfg and part not in given), None)
            if given and absent is not None:  # None, not missing: some tools need a loader alone
                reason = f'but there is {given[0]}. Give all of {", ".join(parts)}, or none of them: '
                self._refuse(absent, None, reason + ' '.join(f'{part}=None' for part in parts))
        for found in contradictions(cfg):
            other = f'{found.other}={found.other_value!r} of {self._source(found.other)}'
            self._refuse(found.key, found.value, f'contradicts {other}. {found.remedy}')

    def _walk(self, value: Any, path: str, section: Section) -> None:
        if isinstance(value, list | tuple):
            for index, item in enumerate(value):
                self._walk(item, f'{path}.{index}', section)
        words = [word for word in path.split('.') if not word.isdigit()]
        key, is_item = words[-1], path[-1].isdigit()
        is_section = (key in SECTIONS and key not in ('compile', 'metrics')) or words[:-1] == ['default_hooks']
        if is_section and (isinstance(value, str | int | float) or (is_item and value is None)):
            self._refuse(path, value, 'a dict belongs here, as in dict(type=...)')
        if not isinstance(value, dict):
            return
        if path == 'custom_hooks':
            self._refuse(path, dict(value), "a list belongs here, as in [dict(type='...')]")
        # A default belongs to the section's own dict, not to those within it.
        kind = value.get('type', section.default if key in SECTIONS else None)
        if isinstance(kind, str) and section.registry is not None:
            if 'metrics' in value and section.registry is METRICS:
                section = section._replace(registry=EVALUATOR)
            component = self._find(kind, path, section.registry)
            self._check_arguments(component, value, path, section.extra)
            if '.' in kind and not kind.startswith('omnimae.'):
                return  # parts of another package's component are looked up there
        elif callable(kind):
            self._check_arguments(kind, value, path, section.extra)
        elif is_section and section.registry is not None and key not in NAMED and value and 'metrics' not in value:
            self._refuse(path, dict(value), 'it has no type')
        for name, item in value.items():
            if key in ('default_hooks', 'sources') and isinstance(item, dict) and 'type' not in item:
                others = [other for other in value if other != name]
                self._refuse(f'{path}.{name}', dict(item), f'it has no type{_hint(name, others)}')
            if name not in OTHERS:
                inner = section if key in NAMED else SECTIONS.get(name, section)
                self._walk(item, f'{path}.{name}', inner)

    def _find(self, kind: str, path: str, registry: Registry) -> Callable:
        try:
            component = registry.get(kind)
        except RuntimeError:  # how MMEngine reports some names that it cannot find
            component = None
        if component is None:
            self._refuse(
                f'{path}.type',
                kind,
                f'no {registry.name} of that name{_hint(kind, _names(registry))} '
                "One of another package takes its prefix, as in 'mmpretrain.RandAugment'; one of your own enters "
                'through custom_imports.',
            )
        return component

    def _check_arguments(self, component: Callable, value: dict[str, Any], path: str, extra: Collection[str]) -> None:
        accepted, is_open = parameters_of(component)
        self._check_values(_name(component), {key: x for key, x in accepted.items() if key not in extra}, value, path)
        if 'priority' in extra and value.get('priority') is not None:
            try:
                get_priority(value['priority'])
            except (KeyError, ValueError, TypeError):
                names = ', '.join(Priority.__members__)
                self._refuse(f'{path}.priority', value['priority'], f'give a number from 0 to 100, or one of {names}')
        for name in sorted(value.keys() - accepted.keys() - {'type', '_scope_', *extra}):
            # **kwargs takes anything, but a name that is one letter from an argument is a mistake
            if not is_open or difflib.get_close_matches(name, accepted, 1, 0.85):
                reason = f'{_name(component)} has no such argument{_hint(name, accepted)}'
                self._refuse(f'{path}.{name}', value[name], reason)
        if component.__module__.split('.')[0] in ('omnimae', 'mmengine', 'torch') and inspect.isclass(component):
            # parts of a head get arguments from the model
            absent = {x.name for x in accepted.values() if x.default is x.empty} - value.keys() - GIVEN
            absent -= {name for name in absent if f'{path}.{name}' in INFERRED}
            if absent and not path.startswith('model.head'):
                self._refuse(path, dict(value), f'{_name(component)} needs {", ".join(sorted(absent))}, too')

    def _check_values(
        self, who: str, accepted: Mapping[str, inspect.Parameter], value: Mapping[str, Any], path: str
    ) -> None:
        for name in sorted(value.keys() & accepted.keys() - {'type'}):
            key = f'{path}.{name}'.lstrip('.')
            if key in INFERRED and value[name] is None:
                continue
            if (reason := misfit(accepted[name], value[name])) is not None:
                self._refuse(key, value[name], f'{who} {reason}')

    def _check_constructor(self, wrapper: dict[str, Any]) -> None:
        if isinstance(clip := wrapper.get('clip_grad'), dict):
            function = clip_grad_value_ if clip.get('type') == 'value' else clip_grad_norm_
            self._check_arguments(function, clip, 'optim_wrapper.clip_grad', ())
        default = 'DefaultOptimWrapperConstructor'
        if wrapper.get('constructor', default) == default and isinstance(
            paramwise := wrapper.get('paramwise_cfg'), dict
        ):
            self._check_arguments(_paramwise, paramwise, 'optim_wrapper.paramwise_cfg', ())
        if 'constructor' not in wrapper:
            return
        path, paramwise = 'optim_wrapper.constructor', wrapper.get('paramwise_cfg')
        if not isinstance(wrapper['constructor'], str):
            self._refuse(path, wrapper['constructor'], 'a name belongs here')
        if paramwise is not None and not isinstance(paramwise, dict):
            self._refuse('optim_wrapper.paramwise_cfg', paramwise, 'a dict belongs here')
        constructor = self._find(wrapper['constructor'], path, OPTIM_WRAPPER_CONSTRUCTORS)
        rest = {key: value for key, value in wrapper.items() if key not in ('constructor', 'paramwise_cfg')}
        try:
            constructor(rest, paramwise)
        except ValueError as error:
            self._refuse('optim_wrapper.paramwise_cfg', paramwise, str(error))

    def _check_train_loop(self, loop: dict[str, Any]) -> None:
        kind = loop.get('type', 'EpochBasedTrainLoop' if loop.get('by_epoch', True) else 'IterBasedTrainLoop')
        if loop and isinstance(kind, str) and kind.split('.')[-1] in ('EpochBasedTrainLoop', 'IterBasedTrainLoop'):
            self._refuse(
                'train_cfg.type' if 'type' in loop else 'train_cfg',
                loop.get('type', dict(loop)),
                'this loop of MMEngine makes an optimizer step of each micro-batch, and restarts a resumed epoch. '
                "Set train_cfg=dict(type='EpochTrainLoop', max_epochs=...), with val_interval in epochs.",
            )

    def _refuse(self, path: str, value: Any, reason: str) -> None:
        raise ValueError(f'{self._source(path)}: {path}={value!r}: {reason}')

    def _source(self, path: str) -> str:
        """'--cfg-options' if it gave the value or a part of it, else the nearest file with the path's last word."""
        if any(f'{path}.'.startswith(f'{option}.') or option.startswith(f'{path}.') for option in self.options):
            return '--cfg-options'
        words = [word for word in path.split('.') if not word.isdigit() and word != 'type']
        word = re.escape(words[-1])
        for pattern in (rf"""\b{word}\s*=|['"]{word}['"]\s*:""", rf'\b{word}\b'):  # set there, or at least named
            for file in self.files:
                if re.search(pattern, file.read_text(encoding='utf-8')):
                    return str(file)
        return str(self.files[0])


def _parts_of(mode: str) -> tuple[str, ...]:
    return f'{mode}_dataloader', f'{mode}_cfg', f'{mode}_evaluator'


def _name(component: Callable) -> str:
    return component.__name__.removeprefix('_')


def _names(registry: Registry | None) -> set[str]:
    return set() if registry is None else {*registry.module_dict, *_names(registry.parent)}


def _hint(word: str, words: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, words, 1)
    return f'. Did you mean {near[0]!r}?' if near else f'. Known: {", ".join(sorted(words))}.'
