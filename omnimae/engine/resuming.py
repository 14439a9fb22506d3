"""What a resumed training may change: settings, data, seed, place."""

from __future__ import annotations

import ast
import shlex
import warnings
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from mmengine.hooks import EMAHook, Hook
from mmengine.runner import Runner
from torch import nn

from omnimae.fitting import parameters_of
from omnimae.registry import (
    DATA_SAMPLERS,
    DATASETS,
    HOOKS,
    LOOPS,
    MODELS,
    OPTIM_WRAPPERS,
    OPTIMIZERS,
    PARAM_SCHEDULERS,
    TRANSFORMS,
)
from omnimae.stopping import command_with
from omnimae.structures import VARIABLES, unwrapped

from .compat import dump_config, loaded_path
from .optim import WarmupCosineLR

REGISTRIES = (MODELS, DATASETS, DATA_SAMPLERS, TRANSFORMS, OPTIMIZERS, OPTIM_WRAPPERS, PARAM_SCHEDULERS, HOOKS, LOOPS)

# Arguments of optimizers that decide which tensors their state has.
OF_STATE = tuple(f'optim_wrapper.optimizer.{name}' for name in ('type', 'amsgrad', 'centered'))

# Keys of a config that do not change what is trained, apart from rounding: patterns of fnmatch. All other keys do, also
# those of a user's own component.
FREE = (
    *('work_dir', 'resume', 'load_from', 'launcher', 'experiment_name', 'log_level', 'log_processor*'),
    *('visualizer*', 'default_scope', 'custom_imports.*', 'cfg', 'runner_type', 'env_cfg.mp_cfg.*'),
    'env_cfg.resource_limit',
    *('env_cfg.dist_cfg.*', 'env_cfg.cudnn_benchmark', 'model_wrapper_cfg.*', 'find_unused_parameters', 'compile*'),
    *('activation_checkpointing*', '*.grad_checkpointing', 'interpolate_positions'),
    *('follow_run', '*.init_cfg*', 'default_hooks.*', 'custom_hooks.*', 'val_*', 'test_*', 'train_cfg.val_*'),
    *('train_cfg.max_epochs', 'train_cfg.max_skipped', 'randomness.deterministic', 'auto_scale_lr.*'),
    *('optim_wrapper.shard', 'optim_wrapper.optimizer.fused', 'optim_wrapper.optimizer.foreach'),
    'train_dataloader.dataset.reads_in_flight',
    # the fingerprint compares the files
    *('train_dataloader.dataset.sources.*.root', 'train_dataloader.dataset.sources.*.ann_file'),
    *('train_dataloader.dataset.sources.*.skip', 'train_dataloader.dataset.sources.*.allow_outside'),
    *('train_dataloader.dataset.sources.*.extensions*', 'train_dataloader.dataset.sources.*.select'),
    *('train_dataloader.dataset.sources.*.classes*', 'train_dataloader.dataset.sources.*backend_args*'),
)
# hooks that change what is trained
BOUND = (*(f'default_hooks.{name}.*' for name in ('step_seed', 'sampler_seed', 'param_scheduler')), '*_hooks.*ema*')
# keys of a loader that decide which samples there are, and in which order
LOADER = ('dataset.', 'sampler.', 'batch_sampler.', 'collate_fn.', 'drop_last', 'num_batch_per_epoch')
NO_STATE = "the optimizer's moments begin at zero"

# set in every resumed run
OF_RESUMING = ('resume', 'load_from', 'default_hooks.resume.allow_changes')


class Change(NamedTuple):
    """A key with different values in the checkpoint's config and in this one. None means that the key is not there."""

    key: str
    then: Any
    now: Any

    @property
    def is_free(self) -> bool:
        """Whether the change keeps the numbers of the training."""
        if any(fnmatchcase(self.key.lower(), pattern) for pattern in BOUND):
            return False
        if self.key.startswith('train_dataloader.') and not self.key.split('.', 1)[1].startswith(LOADER):
            return True
        return any(fnmatchcase(self.key, pattern) for pattern in FREE)


def settings(text: str) -> dict[str, Any]:
    """The values of a config's text by dotted key. No code of it is run: a value that is not plain stays text.

    Raises:
        SyntaxError: no config as MMEngine writes it.
    """
    tree = ast.parse(text)
    pairs = [
        (target.id, node.value)
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    ]
    values = {key: value for name, node in pairs for key, value in _flat(name, _plain(node))}
    return {key: value for key, value in values.items() if value not in (None, [], {})}


def _plain(node: ast.expr) -> Any:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == 'dict':
        parts = [_plain(x) for x in node.args]
        named = {word.arg: _plain(word.value) for word in node.keywords}
        return {key: value for part in [*parts, named] if isinstance(part, dict) for key, value in part.items()}
    if isinstance(node, ast.Dict):
        return {_plain(key): _plain(value) for key, value in zip(node.keys, node.values, strict=True) if key}
    if isinstance(node, ast.List | ast.Tuple):
        return [_plain(item) for item in node.elts]  # --cfg-options make lists of tuples
    try:
        return ast.literal_eval(node)
    except ValueError:
        return ast.unparse(node)  # inf, or a class


def _flat(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for name, item in value.items():
            yield from _flat(f'{key}.{name}', item)
    elif key == 'param_scheduler' and isinstance(value, list) and len(value) == 1:
        yield from _flat(key, value[0])
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        names = [str(number) for number in range(len(value))]
        if key == 'custom_hooks':  # are compared by type, at any position
            kinds = [str(item.get('type')) if isinstance(item, dict) else str(item) for item in value]
            names = [f'{kind}{kinds[:i].count(kind) + 1 if kind in kinds[:i] else ""}' for i, kind in enumerate(kinds)]
        for name, item in zip(names, value, strict=True):
            yield from _flat(f'{key}.{name}', item)
    else:
        yield key, value


def compare(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    """Compare the settings of a checkpoint with those of a config, sorted by key. A missing key has its default."""
    keys = sorted(then.keys() | now.keys())
    differing = [key for key in keys if then.get(key) != now.get(key)]
    pairs = {key: [_value_of(side, key) if key not in side else side[key] for side in (then, now)] for key in differing}
    return [Change(key, then.get(key), now.get(key)) for key, pair in pairs.items() if pair[0] != pair[1]]


def _value_of(values: Mapping[str, Any], key: str) -> Any:
    """The default of a missing key, if its component has one."""
    place, _, name = key.rpartition('.')
    kind = values.get(f'{place}.type')
    found = (registry.get(kind) for registry in (REGISTRIES if isinstance(kind, str) else ()))
    component = next((x for x in found if x is not None), None)
    parameter = parameters_of(component)[0].get(name) if component is not None else None
    default = None if parameter is None or parameter.default is parameter.empty else parameter.default
    return list(default) if isinstance(default, tuple) else default


def table(changes: Sequence[Change]) -> str:
    """One line for each change: key, then, now."""
    rows = [('key', 'then', 'now'), *((change.key, _short(change.then), _short(change.now)) for change in changes)]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return '\n'.join(f'  {key:{widths[0]}}  {then:{widths[1]}}  {now}' for key, then, now in rows)


def _short(value: Any) -> str:
    text = '-' if value is None else repr(value)
    return text if len(text) <= 60 else f'{text[:28]} ... {text[-27:]}'


def compare_data(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The differences between two fingerprints of a MixedDataset, one sentence for each source."""
    said = [f'source {name!r} is gone' for name in then if name not in now]
    said += [f'source {name!r} is new, with {now[name]["rows"]} rows' for name in now if name not in then]
    if not said and [*then] != [*now]:
        said.append(f'the sources come in another order: {", ".join(then)} then, {", ".join(now)} now')
    for name in (name for name in then if name in now):
        parts = [part for part in then[name].keys() | now[name].keys() if then[name].get(part) != now[name].get(part)]
        if 'rows' in parts:
            said.append(f'source {name!r} had {then[name]["rows"]} rows and has {now[name]["rows"]}')
        elif parts:
            said.append(f'source {name!r} has {now[name]["rows"]} rows as before, but other {", ".join(sorted(parts))}')
    return said


@HOOKS.register_module()
class ResumeHook(Hook):
    """Compares a resumed run with its checkpoint, and refuses differences that would change the numbers.

    The log has a table of all keys of the config that differ. Free to change are, among others, workers, micro-batch
    size, number of ranks, intervals, validation, places of data and run, and ``train_cfg.max_epochs``. In a longer run
    each step has the learning rate of the new schedule. Everything else is refused: optimizer, schedule, model, masks,
    transforms, global batch size, another seed, data with other rows, an EMAHook that is removed or new, and a
    checkpoint without the optimizer's state. A run without a seed (``randomness.seed=None``) takes the checkpoint's.

    Args:
        allow_changes: resume with this config in any case. The log names the consequences. ``train.py
            --allow-changes`` sets it.
    """

    priority = 'HIGH'  # before EMAHook takes its weights

    def __init__(self, allow_changes: bool = False) -> None:
        self.allow_changes = allow_changes
        self._data: dict[str, Any] | None = None

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Store what the config does not say: the rows of the data, and the parameters of the optimizer's state."""
        checkpoint['meta']['data'] = self._fingerprint(runner)
        if 'optimizer' in checkpoint:
            checkpoint['meta']['parameters'] = _parameter_names(runner)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Compare, and adapt an allowed checkpoint to this run."""
        if not runner._resume:
            return
        path = loaded_path(runner)
        if 'message_hub' not in checkpoint:
            raise ValueError(
                f'Checkpoint {path} holds weights alone, so no training can be resumed from it. Give '
                "an epoch_N.pth of the run; to start anew from weights use init_cfg=dict(type='Checkpoint', ...)."
            )
        meta = checkpoint['meta']
        changes = self._changes(runner, meta, path)
        if changes:
            runner.logger.info(f'The config differs from that of {path}:\n{table(changes)}')
        data = compare_data(meta['data'], self._fingerprint(runner)) if 'data' in meta else []
        bound = [change for change in changes if not change.is_free]
        reasons = dict(_reasons(runner, checkpoint, bound, data))
        if reasons and not self.allow_changes:
            raise ValueError(
                f'Checkpoint {path} {"; it ".join(reasons)}\n{_variables(changes)}Go on with what it had, start a new '
                f'run in another --work-dir, or go on with {command_with("--resume", "--allow-changes")} '
                '(default_hooks.resume.allow_changes=True): then '
                f'{"; ".join(dict.fromkeys(reasons.values()))}.'
            )
        if reasons or any(change.key.startswith(('optim_wrapper.', 'train_cfg.max_epochs')) for change in changes):
            _adapt(runner, checkpoint, [change.key for change in bound], bool(data))
            hyperparameters = 'learning rate, weight decay and the like are those of this config'
            said = [*reasons.values(), hyperparameters if 'optimizer' in checkpoint else NO_STATE]
            runner.logger.info(f'Resumed with changes: {"; ".join(dict.fromkeys(said))}.')
        _take_seed(runner, meta)
        dump_config(runner, fits=True)

    def _changes(self, runner: Runner, meta: Mapping[str, Any], path: str | None) -> list[Change]:
        try:
            then, now = settings(meta['cfg']), settings(runner.cfg.pretty_text)
        except (KeyError, SyntaxError):
            runner.logger.warning(f'{path} does not say its config, so nothing is compared with it.')
            return []
        then['randomness.seed'] = meta.get('seed')  # also if the config of that run had none
        now.setdefault('randomness.seed', meta.get('seed'))
        return [change for change in compare(then, now) if change.key not in OF_RESUMING]

    def _fingerprint(self, runner: Runner) -> dict[str, Any]:
        if self._data is None:
            dataset: Any = runner.train_dataloader.dataset
            own = getattr(dataset, 'fingerprint', None)
            self._data = {'dataset': {'rows': len(dataset)}} if own is None else own()
        return self._data


def _reasons(
    runner: Runner, checkpoint: dict[str, Any], bound: Sequence[Change], data: Sequence[str]
) -> Iterator[tuple[str, str]]:
    """Why a checkpoint is refused, and the consequence if it is allowed."""
    anew = 'the unfinished epoch starts again with the data of now'
    if data:
        yield f'is of a run with other data: {"; ".join(data)}. Some would be read twice and others never', anew
    before, now = _info(checkpoint).get('steps_per_epoch'), len(runner.train_dataloader)
    if before not in (None, now):
        yield f'is of a run with {before} steps an epoch, and this one has {now}: another global batch or data', anew
    has_ema = _has_ema(runner)
    if has_ema and 'ema_state_dict' not in checkpoint:
        yield (
            'has no average of the weights, and this run has an EMAHook',
            'the average starts at the weights of the checkpoint',
        )
    elif not has_ema and 'ema_state_dict' in checkpoint:
        yield (
            'has the average of an EMAHook, which this run lacks',
            'training continues with the raw weights, without an average',
        )
    if 'optimizer' not in checkpoint:
        yield (
            'has no state of the optimizer (it is a best_*.pth, or of save_optimizer=False; epoch_N.pth has it)',
            NO_STATE,
        )
    if bound:
        yield (
            f'is of a run with other settings, which change its numbers:\n{table(bound)}',
            'the settings of this config hold from here on',
        )


def _variables(changes: Sequence[Change]) -> str:
    """Advise the environment variables that gave other values then."""
    told = [(VARIABLES.get(str(change.now)), change.then) for change in changes]
    return ''.join(f'Set {name}={shlex.quote(str(then))} as it was then. ' for name, then in told if name and then)


def _info(checkpoint: dict[str, Any]) -> dict[str, Any]:
    return checkpoint['message_hub'].setdefault('runtime_info', {})


def _has_ema(runner: Runner) -> bool:
    return any(isinstance(hook, EMAHook) for hook in runner.hooks)


def _take_seed(runner: Runner, meta: dict[str, Any]) -> None:
    """Give the sampler, which exists already, the seed that MMEngine will give the run. An allowed new seed stays."""
    own = runner._randomness_cfg.get('seed')
    seed = meta.get('seed') if own is None else own
    meta['seed'] = seed
    sampler: Any = getattr(runner.train_dataloader.batch_sampler, 'sampler', None)
    if own is None and hasattr(sampler, 'seed'):
        sampler.seed = seed
        runner.logger.info(f'The seed is that of the checkpoint, {seed}.')


def _adapt(runner: Runner, checkpoint: dict[str, Any], changed: Sequence[str], other_data: bool) -> None:
    """Make a checkpoint fit this config, whose settings hold from its step on.

    MMEngine would take hyperparameters and schedules from the checkpoint, whatever the config says.
    """
    meta, length = checkpoint['meta'], len(runner.train_dataloader)
    if other_data or any(key.startswith(('train_dataloader.', 'randomness.')) for key in changed):
        meta['iter'] = meta['epoch'] * length  # the samples come in another order, so the epoch starts again
    _info(checkpoint).update(steps_per_epoch=length, max_iters=runner.max_iters)
    if 'ema_state_dict' in checkpoint and not _has_ema(runner):
        raw = {key: checkpoint['ema_state_dict'].get(f'module.{key}', x) for key, x in checkpoint['state_dict'].items()}
        checkpoint['state_dict'] = raw  # EMAHook has exchanged the two
    if _place(runner, meta['epoch'], meta['iter'], length):
        checkpoint.pop('param_schedulers', None)
    if {*OF_STATE} & {*changed}:
        checkpoint.pop('optimizer', None)
    if 'optimizer' in checkpoint:
        checkpoint['optimizer'].pop('base_param_settings', None)  # MMEngine's, with the rate that logs call base_lr
        checkpoint['optimizer'] |= _regrouped(runner, checkpoint['optimizer'], meta.get('parameters'))


def _place(runner: Runner, epoch: int, step: int, length: int) -> bool:
    """Advance the schedules to a step by the config alone. False if they follow metrics, whose past is unknown."""
    schedulers: Any = runner.param_schedulers or []
    if any(getattr(scheduler, 'need_val_args', False) for scheduler in schedulers):
        return False
    others = [scheduler for scheduler in schedulers if not isinstance(scheduler, WarmupCosineLR)]
    for scheduler in schedulers:
        if isinstance(scheduler, WarmupCosineLR):
            scheduler.load_state_dict({'last_step': step, '_global_step': step})
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', UserWarning)  # that the optimizer makes no steps in between
        for number in range(1, step + 1 if others else 0):
            due = number % length == 0 and number // length <= epoch
            for scheduler in others:
                if due or not scheduler.by_epoch:
                    scheduler.step()
    return True


def _regrouped(runner: Runner, state: Mapping[str, Any], names: Sequence[str] | None) -> dict[str, Any]:
    """The state of each parameter, in the groups and with the hyperparameters of this run's optimizer."""
    own = _parameter_names(runner)
    then = [number for group in state['param_groups'] for number in group['params']]
    now: dict[str, int] = {name: number for number, name in enumerate(own)}
    if names is None and len(then) == len(own):  # an old checkpoint does not name them
        names = own
    pairs = {number: now[name] for number, name in zip(then, names or (), strict=False) if name in now}
    numbers = iter(range(len(own)))
    optimizer: Any = runner.optim_wrapper.optimizer
    groups = [{**group, 'params': [next(numbers) for _ in group['params']]} for group in optimizer.param_groups]
    entries = {pairs[number]: entry for number, entry in state['state'].items() if number in pairs}
    return {'state': dict(sorted(entries.items())), 'param_groups': groups}


def _parameter_names(runner: Runner) -> list[str]:
    """Names of the optimizer's parameters, in its order."""
    model: nn.Module = unwrapped(runner.model)
    names = {parameter: name for name, parameter in model.named_parameters()}
    return [names.get(x, '') for group in runner.optim_wrapper.optimizer.param_groups for x in group['params']]
