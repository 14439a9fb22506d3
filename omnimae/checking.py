"""Checks of a config: every dict against the signature of what it builds, before anything is built."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from mmengine.config import Config
from mmengine.registry import EVALUATOR, LOG_PROCESSORS, MODEL_WRAPPERS, VISBACKENDS, VISUALIZERS, Registry
from mmengine.runner import Priority, Runner, get_priority
from mmengine.utils import import_modules_from_strings
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
    follow_run: bool = False,  # read in engine/following.py
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


class Checker:
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
                self._refuse(f'{path}.{name}', dict(item), f'it has no type{hint(name, others)}')
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
                f'no {registry.name} of that name{hint(kind, _names(registry))} '
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
                reason = f'{_name(component)} has no such argument{hint(name, accepted)}'
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


def hint(word: str, words: Iterable[str]) -> str:
    """What a mistyped word may mean."""
    near = difflib.get_close_matches(word, words, 1)
    return f'. Did you mean {near[0]!r}?' if near else f'. Known: {", ".join(sorted(words))}.'
