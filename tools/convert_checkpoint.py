"""Convert weights: published ones to ours, and ours (or published ones) to the layouts of others.

python tools/convert_checkpoint.py SRC DST [--source omnimae|videomae|huggingface|vit_mae|multimae|mae_st|slowfast|timm]
python tools/convert_checkpoint.py SRC DST --to omnimae|mae|mae_st|slowfast|multimae
python tools/convert_checkpoint.py SRC DST --to videomae --config CONFIG
python tools/convert_checkpoint.py SRC FOLDER --to timm|huggingface --config CONFIG

The name of DST decides the format: .safetensors, or else a file of torch.save. FOLDER gets model.safetensors,
config.json with the names of the classes, README.md (a model card), and for transformers preprocessor_config.json. It
can be uploaded to Hugging Face as it is: `hf upload ORG/NAME FOLDER`. If SRC is in the folder of its run, the card has
the metrics of its last test, else of its validation. ``timm.create_model('local-dir:FOLDER', pretrained=True)`` (images
only), ``transformers.VideoMAEModel.from_pretrained('FOLDER')`` or ``VideoMAEForVideoClassification`` read it. What has
a class token goes to ``ViTMAEForPreTraining``, ``ViTMAEModel`` or ``ViTForImageClassification``.
"""

import argparse
import ast
import copy
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omnimae.stopping import start_tool

if __name__ == '__main__':
    start_tool()  # the imports take seconds

import yaml
from mmengine.config import Config

from omnimae.apis import find_classes, find_source
from omnimae.checkpoint import (
    LAYOUTS,
    NATIVE,
    WEIGHTS,
    Checkpoint,
    Resizing,
    export,
    export_timm,
    export_transformers,
    image_processor,
    save_file,
    to_multimodal,
    to_plain,
)
from omnimae.commands import add_cfg_options
from omnimae.engine import load_config_for
from omnimae.inputs import default_source
from omnimae.registry import MODELS
from omnimae.structures import check_out
from omnimae.visualization.curves import read_run
from omnimae.zoo import ZOO

ENDINGS = ('.safetensors', '.pth', '.pt', '.torch')
FOLDERS = ('timm', 'huggingface')  # what transformers calls VideoMAE, ViTMAE and ViT
KEPT = ('weights', 'epoch', 'iter', 'best', 'classes')  # of a checkpoint's metadata


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('src', help='path or URL of a published checkpoint, or one of ours')
    parser.add_argument('dst', help='file to write, .pth or .safetensors; a folder for timm and huggingface')
    parser.add_argument('--source', choices=sorted(LAYOUTS), help='layout of SRC; recognised by default')
    targets = [NATIVE, 'mae', *(name for name in LAYOUTS if name != 'vit_mae')]
    parser.add_argument('--to', choices=targets, default=NATIVE, help='layout of DST; default: ours')
    parser.add_argument('--config', help='config of the model; videomae, timm and huggingface need its clip size')
    add_cfg_options(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Convert.

    Raises:
        ValueError: SRC cannot be read, its layout is unknown or incomplete, it does not fit the config or the target
            layout, or DST is SRC.
    """
    args = parse_args(argv)
    if os.path.realpath(args.src) == os.path.realpath(args.dst):
        raise ValueError(f'DST={args.dst} is SRC, which would be overwritten while it is read. Name another file.')
    ending = os.path.splitext(args.dst)[1]
    if args.to not in FOLDERS and ending not in ENDINGS:
        raise ValueError(f'DST={args.dst} ends in {ending!r}. Give a name that ends in one of {", ".join(ENDINGS)}.')
    check_out(args.dst, is_folder=args.to in FOLDERS, name='DST: ')
    checkpoint = Checkpoint.read(args.src, args.source)
    weights, left = checkpoint.translated()
    try:
        if args.to == 'multimae' and not Checkpoint(weights).modalities:
            weights, _ = to_multimodal(weights)
        elif args.to not in (NATIVE, 'multimae') and Checkpoint(weights).modalities:
            weights, _ = to_plain(weights)
        if args.to in FOLDERS:
            weights = _write_folder(weights, checkpoint, args)
        else:
            if args.to != NATIVE:
                weights = export(weights, args.to, positions=_positions(args))
            kept = {key: str(checkpoint.meta[key]) for key in KEPT if key in checkpoint.meta}
            save_file(weights, args.dst, {'converted_from': str(checkpoint.layout), **kept})
    except ValueError as error:
        raise ValueError(f'{args.src}: {error}') from error
    kind = f', {WEIGHTS[checkpoint.weights]}' if checkpoint.weights in WEIGHTS else ''
    print(f'{args.src} (layout {checkpoint.layout}): {len(weights)} tensors -> {args.dst} (layout {args.to}){kind}')
    if left:
        print(f'{len(left)} tensors have no place in our models and are left: {", ".join(left)}')


def _build(args: argparse.Namespace) -> tuple[Config, Any]:
    """Build the config's model for its grid, heads and fixed positions: one block is enough."""
    whole = load_config_for(args.config, args.src, args.cfg_options)
    cfg = copy.deepcopy(whole.model)
    if 'tokenizers' not in cfg.backbone and not hasattr(MODELS.get(cfg.backbone.type), 'fixed_positions'):
        raise ValueError(f'--to {args.to}: no published layout has names for the weights of a {cfg.backbone.type}.')
    cfg.backbone.depth, cfg.init_cfg = 1, None
    if cfg.get('num_classes', 0) is None:
        cfg.num_classes = 1
    return whole, MODELS.build(cfg)


def _positions(args: argparse.Namespace) -> dict[str, Any]:
    """Fixed positions of a new model, for layouts that hold no others."""
    if args.to == 'mae' or not LAYOUTS[args.to].fixed_positions:
        return {}
    if args.config is None:
        raise ValueError(f'--to {args.to} needs --config: it can hold the fixed positions alone, of that clip size.')
    return {key: x for key, x in _build(args)[1].state_dict().items() if key.endswith('pos_embed')}


def _write_folder(weights: dict[str, Any], checkpoint: Checkpoint, args: argparse.Namespace) -> dict[str, Any]:
    if args.config is None:
        raise ValueError(f'--to {args.to} needs --config: weights alone tell neither clip size nor number of heads.')
    cfg, model = _build(args)
    ours = Checkpoint(weights)
    classes = find_classes(cfg, checkpoint.classes, ours.num_classes) if ours.num_classes else None
    pixels = cfg.model.get('data_preprocessor') or {}
    given = {key: pixels[key] for key in ('mean', 'std') if key in pixels}
    resizing = _resizing(cfg, model.backbone, args.to)
    files: dict[str, str] = {}
    if args.to == 'timm':
        exported, config = export_timm(weights, model.backbone, **given, resizing=resizing, classes=classes)
    else:
        is_mae = ours.kind == 'pretraining' and 'backbone.cls_token' in weights
        decoder = _decoder(cfg.model, model.head) if is_mae else None
        exported, config = export_transformers(weights, model.backbone, decoder, classes=classes)
        if config['model_type'] == 'videomae' and find_source(cfg, 'image') and not find_source(cfg, 'video'):
            print('This model is for images, and VideoMAE takes clips. Export --to timm: transformers reads that, too.')
        if resizing is not None:
            processor = image_processor(config['model_type'], resizing, **given)
            files['preprocessor_config.json'] = json.dumps(processor, indent=2) + '\n'
    if resizing is None:
        print('The tests resize or crop in a way that the folder cannot hold. Prepare images as the config does.')
    files['config.json'] = json.dumps(config, indent=2, ensure_ascii=False) + '\n'
    files['README.md'] = _card(cfg, config, checkpoint, ours, classes, args)
    folder = Path(args.dst)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(exported, folder / 'model.safetensors', {'format': 'pt'})
    for name, text in files.items():
        (folder / name).write_text(text, encoding='utf-8')
    return exported


def _resizing(cfg: Config, backbone: Any, target: str) -> Resizing | None:
    """How the tests of the config resize and crop: of images for timm, of videos first for transformers."""
    stem = backbone.tokenizers['rgb'] if hasattr(backbone, 'tokenizers') else backbone
    clip_size = stem.grid.clip_size(stem.patch_size)
    modalities = ['video', 'image'] if target == 'huggingface' and clip_size[0] > 1 else ['image']
    sources = [find_source(cfg, modality) for modality in modalities] + [default_source(modalities[0], clip_size)]
    return Resizing.of(next(source for source in sources if source is not None).get('transforms', ()))


def _card(
    cfg: Config,
    exported: dict[str, Any],
    checkpoint: Checkpoint,
    ours: Checkpoint,
    classes: Sequence[str] | None,
    args: argparse.Namespace,
) -> str:
    """Write the model card. Of absolute paths it has the last parts alone."""
    classified = ours.kind == 'classifier'
    task, kind = 'classification' if classified else 'features', 'video' if 'num_frames' in exported else 'image'
    tag = f'{kind}-classification' if classified else 'image-feature-extraction'
    start = cfg.model.get('init_cfg') and cfg.model.init_cfg.get('checkpoint')
    origins = [str(path) for path in (args.src, start, cfg.get('load_from')) if path]
    layout = checkpoint.meta.get('converted_from', checkpoint.layout)
    is_published = layout != NATIVE or any('://' in path for path in origins)
    licence = 'cc-by-nc-4.0' if is_published else 'other'
    head = dict(
        license=licence,
        library_name='timm' if args.to == 'timm' else 'transformers',
        pipeline_tag=tag,
        tags=['omnimae', 'masked-autoencoder'],
    )
    when, metrics = _metrics(Path(args.src), cfg, checkpoint)
    if metrics:
        head['model-index'] = _model_index(cfg, Path(args.config).stem, tag, metrics)
        results = '\n'.join([f'{when}.\n', '| metric | value |', '|---|---|', *_rows(metrics)])
    else:
        results = (
            'Not known here. Fill in a table. Or test the checkpoint in the folder of its run, by `tools/test.py '
            'CONFIG CHECKPOINT --work-dir RUN`, and export it again.'
        )
    architecture = exported.get('architecture') or exported['architectures'][0]
    load = (
        "timm.create_model('local-dir:FOLDER', pretrained=True)  # or 'hf-hub:ORG/NAME'\n"
        f"transformers.{'AutoModelForImageClassification' if classified else 'AutoModel'}.from_pretrained('FOLDER')"
        if args.to == 'timm'
        else f"transformers.{architecture}.from_pretrained('FOLDER')\n"
        "transformers.AutoImageProcessor.from_pretrained('FOLDER')"
    )
    config = _public(os.path.splitext(args.config)[0])
    sources = (cfg.get('train_dataloader') or {}).get('dataset', {}).get('sources', {})
    data = [f'{name} ({_public(str(x.get("ann_file") or x.get("root") or "?"))})' for name, x in sources.items()]
    known = {key: checkpoint.meta[key] for key in KEPT[:-1] if key in checkpoint.meta}
    authors = next((x.accuracy for x in ZOO.values() if x.url == args.src), None)
    rows = {
        'task': f'{kind} {task}' + (f', {ours.num_classes} classes' if classified else ''),
        'classes': ', '.join(classes[:20]) + (', ...' if len(classes) > 20 else '') if classes else '',
        'config': f'`{config}`',
        'training data': ', '.join(data),
        'weights': ', '.join(f'{key} {value}' for key, value in known.items()),
        'starts from': _public(str(start or cfg.get('load_from') or '')),
        'source': f'{_public(args.src)} (layout {checkpoint.layout})',
        'top-1 of the authors': '' if authors is None else f'{authors} %',
    }
    recipe = ast.get_docstring(ast.parse(Path(cfg.filename).read_text(encoding='utf-8')))
    rights = (
        'These weights are published ones or start from some. Those of OmniMAE, MAE, MAE-ST, VideoMAE and MultiMAE are '
        'CC-BY-NC 4.0, which allows no commercial use, and it holds for what is made of them. Correct this if '
        'theirs is another.'
        if is_published
        else 'Name the licence of these weights here and in the first lines. If they start from published weights, '
        'theirs holds.'
    )
    parts = [
        f'---\n{yaml.safe_dump(head, sort_keys=False)}---',
        f'# {Path(config).name}: {rows["task"]}',
        f'`{architecture}`, trained with omnimae and exported with its convert_checkpoint.py.',
        f'```python\n{load}\n```',
        '| | |\n|---|---|\n' + '\n'.join(f'| {key} | {value} |' for key, value in rows.items() if value),
        f'## Results\n\n{results}',
        f'## Recipe\n\nText of the config:\n\n```text\n{recipe}\n```' if recipe else '',
        f'## Licence\n\n{rights}',
    ]
    return '\n\n'.join(filter(None, parts)) + '\n'


def _metrics(src: Path, cfg: Config, checkpoint: Checkpoint) -> tuple[str, dict[str, float]]:
    """What the folder of the run says about these weights: when it was measured, and metric -> value."""
    for path in sorted(src.parent.glob('*/*.json'), reverse=True):  # TIME/TIME.json: a test
        log = path.with_suffix('.log')
        text = log.read_text(encoding='utf-8', errors='replace') if log.is_file() else ''
        if src.name in {Path(found).name for found in re.findall(r'Weights from (.+?) \(layout', text)}:
            values = json.loads(path.read_text(encoding='utf-8'))
            return 'Test of these weights', {
                key: x for key, x in values.items() if '/' in key and isinstance(x, int | float)
            }
    averages = any(hook.get('type') == 'EMAHook' for hook in cfg.get('custom_hooks') or ())
    if 'iter' not in checkpoint.meta or (averages and checkpoint.weights == 'raw'):  # averaged ones are validated
        return '', {}
    try:
        curves = read_run(src.parent).curves
    except ValueError:  # no folder of a run
        return '', {}
    step = int(checkpoint.meta['iter'])
    found = {key: points[step].value for key, points in curves.items() if '/' in key and step in points}
    kept = {key: x for key, x in found.items() if not key.endswith(('_best', '_best_epoch'))}
    return f'Validation of these weights, after epoch {checkpoint.meta.get("epoch")}', kept


def _rows(metrics: dict[str, float]) -> list[str]:
    return [f'| {key} | {value:.4g} |' for key, value in metrics.items()]


def _model_index(cfg: Config, name: str, task: str, metrics: dict[str, float]) -> list[dict[str, Any]]:
    """Give the metrics in the form that the Hub shows."""
    loader = cfg.get('test_dataloader') or cfg.get('val_dataloader') or {}
    data = ', '.join(loader.get('dataset', {}).get('sources', {})) or 'own data'
    values = [
        dict(type='accuracy' if key.endswith('top1') else key.rpartition('/')[2], name=key, value=float(f'{value:.4g}'))
        for key, value in metrics.items()
    ]
    return [dict(name=name, results=[dict(task=dict(type=task), dataset=dict(name=data, type=data), metrics=values)])]


def _public(path: str) -> str:
    """Shorten an absolute path to its last two parts, since its folders are of this machine alone."""
    return '/'.join(Path(path).parts[-2:]) if os.path.isabs(path) else path


def _decoder(cfg: Config, head: Any) -> dict[str, Any]:
    """What the weights of a decoder do not tell, by the names of ViTMAE's config."""
    head = head if hasattr(head, 'blocks') else next(iter(head.values()))  # several are refused later
    if head.target.normalize == 'channel':
        raise ValueError("ViTMAE of transformers has no target.normalize='channel'. Choose 'patch' or None.")
    return dict(
        decoder_num_attention_heads=head.blocks[0].attn.num_heads,
        mask_ratio=cfg.mask_generator.get('image', {}).get('ratio', 0.75),
        norm_pix_loss=head.target.normalize == 'patch',
    )


if __name__ == '__main__':
    main()
