"""Values of a config that contradict each other.

Nothing is built and no file is read. Defaults count for values that the config does not give. Nothing is compared if a
value is unknown, as that of a component of another package.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from mmengine.config import Config
from mmengine.registry import Registry

from omnimae.fitting import parameters_of
from omnimae.registry import DATA_SAMPLERS, DATASETS, MODELS
from omnimae.structures import sizes_by_source

# transforms that give clips a fixed size, and those whose size depends on the file
CROPS = ('RandomResizedCrop', 'MultiScaleCrop', 'RandomCrop', 'CenterCrop', 'ThreeCrop')
RESIZES = ('ResizeShort', 'ResizeLong', 'LargeScaleJitter')
PACKAGES = ('omnimae', 'mmengine', 'torch')  # whose annotations are classes
ONE_VIEW = ('ReconstructionLoss', 'SegmentationScore', 'DepthScore')  # metrics of one view a sample
# metric or hook -> the argument or the task that its model needs
NEEDED = {
    **{'ReconstructionLoss': 'mask_generator', 'ReconstructionHook': 'mask_generator'},
    **{'SegmentationScore': 'SegmentationTask', 'DepthScore': 'DepthTask', 'PredictionHook': 'task'},
}


class Contradiction(NamedTuple):
    """Two keys with their values, and what to do."""

    key: str
    value: Any
    other: str
    other_value: Any
    remedy: str


def contradictions(cfg: Config) -> Iterator[Contradiction]:
    """Find the contradictions of a config, the worst first."""
    if 'model' in cfg:
        yield from _clip_sizes(cfg)
        yield from _numbers_of_classes(cfg)
        yield from _pixels(cfg)
        yield from _mask_generators(cfg)
    yield from _parts_of_loaders(cfg)
    yield from _batch_sizes(cfg)
    yield from _views(cfg)
    yield from _needs(cfg)
    yield from _schedules(cfg)


class _Source(NamedTuple):
    key: str
    cfg: Mapping
    trains: bool


def _loaders(cfg: Mapping, key: str = '') -> Iterator[tuple[str, Mapping]]:
    """Key and config of every loader, including those of loops and hooks."""
    for name, value in cfg.items():
        path = f'{key}{name}'
        if name.endswith('_dataloader') and value:
            yield path, value
        elif isinstance(value, Mapping):
            yield from _loaders(value, f'{path}.')
        elif isinstance(value, list | tuple):
            yield from _loaders({str(i): item for i, item in enumerate(value) if isinstance(item, Mapping)}, f'{path}.')


def _sources(cfg: Mapping) -> Iterator[_Source]:
    """Every source of every loader."""
    for path, loader in _loaders(cfg):
        dataset = loader.get('dataset') or {}
        sources = dataset.get('sources')
        named = {f'.sources.{name}': source for name, source in sources.items()} if sources else {'': dataset}
        for place, source in named.items():
            yield _Source(f'{path}.dataset{place}', source, path == 'train_dataloader')


def _get(cfg: Any, key: str) -> Any:
    """Value of a dotted key, None if a part of it is missing or None."""
    for word in key.split('.'):
        cfg = (cfg or {}).get(word)
    return cfg


def _component(cfg: Mapping, registry: Registry) -> Any:
    kind = cfg.get('type')
    return registry.get(kind) if isinstance(kind, str) else kind


def _value(cfg: Mapping, name: str, registry: Registry) -> Any:
    """An argument of a component: its value in the config, else its default, else None."""
    component = _component(cfg, registry)
    if name in cfg or component is None:
        return cfg.get(name)
    parameter = inspect.signature(component).parameters.get(name)
    return None if parameter is None or parameter.default is parameter.empty else parameter.default


def _crop(source: _Source) -> tuple[str, Any] | None:
    """Key and value of the size of a source's clips."""
    found = None
    for index, transform in enumerate(source.cfg.get('transforms') or ()):
        kind = str(transform.get('type')).removeprefix('omnimae.')
        if kind in CROPS:
            found = f'{source.key}.transforms.{index}.size', transform.get('size')
        elif kind in RESIZES or '.' in kind:
            found = None
    return found


def _frames(source: _Source) -> int | None:
    frames = _value(source.cfg, 'num_frames', DATASETS)
    return 1 if frames is None and getattr(_component(source.cfg, DATASETS), 'modality', None) == 'image' else frames


def _stems(cfg: Config, source: _Source) -> Iterator[tuple[str, Mapping, int]]:
    """Patch embeddings of a source's clips: key, config, and stride of the clip in pixels of the crop."""
    backbone: Mapping[str, Any] = _get(cfg, 'model.backbone') or {}
    if 'tokenizers' not in backbone:
        yield 'model.backbone', backbone, 1
        return
    modalities = source.cfg.get('modalities') or {'rgb': {}}
    for name, tokenizer in backbone['tokenizers'].items():
        if name in modalities and name != source.cfg.get('target'):
            yield f'model.backbone.tokenizers.{name}', tokenizer, max(modalities[name].get('stride', 1), 1)


def _clip_sizes(cfg: Config) -> Iterator[Contradiction]:
    """Crops and frames of the data, and the model's patch size and clip size."""
    for source in _sources(cfg):
        crop, frames = _crop(source), _frames(source)
        for key, stem, stride in _stems(cfg, source):
            patch, clip = (_value(stem, name, MODELS) for name in ('patch_size', 'clip_size'))
            if patch is None or clip is None:
                continue
            if crop is not None and crop[1] is not None:
                size = (crop[1], crop[1]) if isinstance(crop[1], int) else (*crop[1],)
                size = tuple(length // stride for length in size)
                if any(length % side for length, side in zip(size, patch[1:], strict=True)):
                    yield Contradiction(*crop, f'{key}.patch_size', patch, 'Choose a multiple of the patch.')
                if source.trains and size != tuple(clip[1:]) and not cfg.get('interpolate_positions'):
                    yield Contradiction(*crop, f'{key}.clip_size', clip, _SAME_SIZE)
            if frames is None or frames == 1:
                continue
            if frames % patch[0]:
                remedy = 'Choose a multiple of the frames of a patch.'
                yield Contradiction(f'{source.key}.num_frames', frames, f'{key}.patch_size', patch, remedy)
            if source.trains and frames != clip[0] and not cfg.get('interpolate_positions'):
                yield Contradiction(f'{source.key}.num_frames', frames, f'{key}.clip_size', clip, _SAME_SIZE)


_SAME_SIZE = (
    'Training would interpolate the positions. Give both the same size. For a checkpoint of another size set '
    'interpolate_positions=True.'
)


def _numbers_of_classes(cfg: Config) -> Iterator[Contradiction]:
    """Numbers of classes of the head, the data, the loops and the input maps."""
    heads = {key: _get(cfg, key) for key in ('model.num_classes', 'model.task.num_classes')}
    loops = {key: _get(cfg, key) for key in ('val_cfg.num_classes', 'test_cfg.num_classes')}
    datasets = [f'{phase}_dataloader.dataset.num_classes' for phase in ('train', 'val', 'test')]
    said = {key: _get(cfg, key) for key in (*datasets, 'model.data_preprocessor.num_classes')}
    for source in _sources(cfg):
        said[f'{source.key}.num_classes'] = source.cfg.get('num_classes')
        classes = source.cfg.get('classes')
        said[f'{source.key}.classes'] = classes if isinstance(classes, list | tuple) else None
    for key, value in (said | loops).items():
        for head, number in heads.items():
            yield from _other_number(key, value, head, number)
        for loop, number in loops.items():  # k-NN has no head, and its loop has the bank
            phase = loop.removesuffix('cfg.num_classes')
            if key.startswith(phase) and key != loop:
                yield from _other_number(key, value, loop, number)
    tokenizers = _get(cfg, 'model.backbone.tokenizers') or {}
    for source in _sources(cfg):
        for name, modality in (source.cfg.get('modalities') or {}).items():
            count, number = modality.get('num_classes'), tokenizers.get(name, {}).get('num_classes')
            other = f'model.backbone.tokenizers.{name}.num_classes'
            if name == source.cfg.get('target'):
                number, other = heads['model.task.num_classes'], 'model.task.num_classes'
            if not modality.get('reduce_zero_label'):  # which changes the count
                yield from _other_number(f'{source.key}.modalities.{name}.num_classes', count, other, number)


def _other_number(key: str, value: Any, other: str, number: int | None) -> Iterator[Contradiction]:
    """Compare a number of classes, or the number of class names, with another. None is unknown."""
    count = len(value) if isinstance(value, list | tuple) else value
    if None not in (count, number) and count != number:
        yield Contradiction(key, value, other, number, 'Give both the same number of classes.')


def _pixels(cfg: Config) -> Iterator[Contradiction]:
    """Mean and std of the preprocessor, and those of a target."""
    preprocessor, head = (_get(cfg, f'model.{name}') or {} for name in ('data_preprocessor', 'head'))
    for place, part in {'': head, **{f'.{name}': part for name, part in head.items()}}.items():
        target: Any = part.get('target') if isinstance(part, Mapping) else None
        for name in ('mean', 'std') if isinstance(target, Mapping) else ():
            value, own = target.get(name), _value(preprocessor, name, MODELS)
            if None not in (value, own) and tuple(value) != tuple(own):
                key, other = f'model.head{place}.target.{name}', f'model.data_preprocessor.{name}'
                yield Contradiction(key, value, other, own, "Give the target those of the encoder's input, or none.")


def _mask_generators(cfg: Config) -> Iterator[Contradiction]:
    """Modalities of the data, and those of mask generators and heads."""
    for name in ('mask_generator', 'head'):
        parts = cfg.model.get(name) or {}
        if 'type' in parts or not {*parts} <= {'image', 'video'}:
            continue
        for source in _sources(cfg):
            modality = getattr(_component(source.cfg, DATASETS), 'modality', None)
            if parts and modality in ('image', 'video') and modality not in parts:
                remedy = f'Add model.{name}.{modality}, or leave the source out.'
                yield Contradiction(f'{source.key}.type', source.cfg['type'], f'model.{name}', list(parts), remedy)


def _parts_of_loaders(cfg: Config) -> Iterator[Contradiction]:
    """Parts of a loader: each takes the one before it."""
    for path, loader in _loaders(cfg):
        parts: dict[str, Any] = {'dataset': DATASETS, 'sampler': DATA_SAMPLERS, 'batch_sampler': DATA_SAMPLERS}
        kinds = {name: _component(loader.get(name) or {}, registry) for name, registry in parts.items()}
        for name, taken in (('sampler', 'dataset'), ('batch_sampler', 'sampler')):
            wanted = parameters_of(kinds[name])[0].get(taken) if kinds[name] else None
            kind: Any = getattr(wanted, 'annotation', None)
            given = kinds[taken]
            known = inspect.isclass(kind) and inspect.isclass(given) and given.__module__.split('.')[0] in PACKAGES
            if known and not issubclass(given, kind):
                value, other = loader[taken]['type'], loader[name]['type']
                remedy = f'It takes a {kind.__name__}.'
                yield Contradiction(f'{path}.{taken}.type', value, f'{path}.{name}.type', other, remedy)
        for name in ('shuffle', 'drop_last'):
            if loader.get('batch_sampler') and loader.get(name):
                remedy = 'The batch sampler decides on batches. Leave the other out.'
                other = loader['batch_sampler'].get('type')
                yield Contradiction(f'{path}.{name}', loader[name], f'{path}.batch_sampler.type', other, remedy)
        collate = (loader.get('collate_fn') or {}).get('type', 'pseudo_collate')
        if loader['dataset'].get('type') == 'MixedDataset' and collate in ('default_collate', 'pseudo_collate'):
            remedy = "Set collate_fn=dict(type='collate_clips')."
            yield Contradiction(f'{path}.collate_fn.type', collate, f'{path}.dataset.type', 'MixedDataset', remedy)


def _batch_sizes(cfg: Config) -> Iterator[Contradiction]:
    """Batch sizes by source or modality, and the sources. Numbers are compared when the ranks are known."""
    sizes, sources = (_get(cfg, f'train_dataloader.{key}') or {} for key in ('batch_size', 'dataset.sources'))
    kinds = {name: _component(source, DATASETS) for name, source in sources.items()}
    known = kinds and all(isinstance(getattr(kind, 'modality', None), str) for kind in kinds.values())
    if known and isinstance(sizes, Mapping):
        try:
            sizes_by_source(sizes, kinds)
        except ValueError as error:
            key, other = 'train_dataloader.batch_size', 'train_dataloader.dataset.sources'
            yield Contradiction(key, dict(sizes), other, [*sources], str(error))


def metrics_of(cfg: Mapping[str, Any], phase: str) -> list[dict[str, Any]]:
    """The configs of the metrics of 'val' or 'test': a config has none, one, or a list."""
    metrics = cfg.get(f'{phase}_evaluator') or []
    return [metrics] if isinstance(metrics, dict) else [*metrics]


def _views(cfg: Config) -> Iterator[Contradiction]:
    """Several views of a test sample, and metrics of one."""
    for phase in ('val', 'test'):
        kinds = [kind for kind in (metric.get('type') for metric in metrics_of(cfg, phase)) if kind in ONE_VIEW]
        for source in _sources({f'{phase}_dataloader': cfg.get(f'{phase}_dataloader')}) if kinds else ():
            views = {f'{source.key}.num_clips': source.cfg.get('num_clips', 1)}
            for index, transform in enumerate(source.cfg.get('transforms') or ()):
                if transform.get('type') == 'ThreeCrop':
                    views[f'{source.key}.transforms.{index}.type'] = 'ThreeCrop'
            for key, value in views.items():
                if value != 1:
                    remedy = 'This metric takes one view: set num_clips=1 and a CenterCrop.'
                    yield Contradiction(key, value, f'{phase}_evaluator', kinds[0], remedy)


def _needs(cfg: Config) -> Iterator[Contradiction]:
    """Metrics and hooks, and the model that they need."""
    model, task = cfg.get('model') or {}, _get(cfg, 'model.task.type')
    parts = [(f'custom_hooks.{i}', hook) for i, hook in enumerate(cfg.get('custom_hooks') or ())]
    for phase in ('val', 'test') if getattr(_component(model, MODELS), '__module__', '').startswith('omnimae.') else ():
        is_one = isinstance(cfg.get(f'{phase}_evaluator'), Mapping)
        metrics = enumerate(metrics_of(cfg, phase))
        parts += [(f'{phase}_evaluator' + ('' if is_one else f'.{i}'), metric) for i, metric in metrics]
    for path, part in parts:
        needed = NEEDED.get(part.get('type'))
        if needed and needed not in (task, *model):
            remedy = f'It is for models with a {needed}. Choose one for this model.'
            yield Contradiction(f'{path}.type', part['type'], 'model.type', model['type'], remedy)


def _schedules(cfg: Config) -> Iterator[Contradiction]:
    """Warm-up and end of the learning rate, and the epochs of the training."""
    epochs = _get(cfg, 'train_cfg.max_epochs')
    schedulers = cfg.get('param_scheduler') or []
    for index, scheduler in enumerate([schedulers] if isinstance(schedulers, Mapping) else schedulers):
        if epochs is None or scheduler.get('type') != 'WarmupCosineLR':
            continue
        key = 'param_scheduler.' if isinstance(schedulers, Mapping) else f'param_scheduler.{index}.'
        warmup, end = scheduler.get('warmup_epochs', 0), scheduler.get('end', epochs)
        if end != epochs:
            yield Contradiction(f'{key}end', end, 'train_cfg.max_epochs', epochs, 'Leave the end out.')
        if not 0 <= warmup < epochs:
            remedy = 'Choose a shorter warm-up (0 for none) or train longer.'
            yield Contradiction(f'{key}warmup_epochs', warmup, 'train_cfg.max_epochs', epochs, remedy)
