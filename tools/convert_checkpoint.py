"""Convert weights: published ones to ours, and ours (or published ones) to the layouts of others.

python tools/convert_checkpoint.py SRC DST [--source omnimae|videomae|huggingface|vit_mae|multimae|mae_st|slowfast|timm]
python tools/convert_checkpoint.py SRC DST --to omnimae|mae|mae_st|slowfast|multimae
python tools/convert_checkpoint.py SRC DST --to videomae --config CONFIG
python tools/convert_checkpoint.py SRC FOLDER --to timm|huggingface --config CONFIG

The name of DST decides the format: .safetensors, or else a file of torch.save. FOLDER gets model.safetensors and
config.json: ``timm.create_model('local-dir:FOLDER', pretrained=True)`` (images only),
``transformers.VideoMAEModel.from_pretrained('FOLDER')`` or ``VideoMAEForVideoClassification`` read it. What has a class
token goes to ``ViTMAEForPreTraining``, ``ViTMAEModel`` or ``ViTForImageClassification``.
"""

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from omnimae.checkpoint import WEIGHTS, load_file, save_file
from omnimae.config import load_config
from omnimae.layouts import (
    CLS_TOKEN,
    LAYOUTS,
    NATIVE,
    MAEDecoder,
    StateDict,
    as_modality,
    export,
    export_huggingface,
    export_mae,
    export_mae_st,
    export_multimae,
    export_slowfast,
    export_timm,
    export_videomae,
    export_vit_mae,
    is_multimodal,
    is_pretraining,
    recognise,
    take_modality,
    translate,
)
from omnimae.registry import MODELS

EXPORTS = {  # of those that need nothing but the weights
    'omnimae': export,
    'mae': export_mae,
    'mae_st': export_mae_st,
    'slowfast': export_slowfast,
    'multimae': export_multimae,
}


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description='Convert weights between layouts.')
    parser.add_argument('src', help='path or URL of a published checkpoint, or one of ours')
    parser.add_argument('dst', help='file to write, .pth or .safetensors; a folder for timm and huggingface')
    parser.add_argument('--source', choices=sorted(LAYOUTS), help='layout of SRC; recognised when not given')
    parser.add_argument(
        '--to',
        choices=[NATIVE, 'omnimae', 'mae', 'mae_st', 'slowfast', 'multimae', 'videomae', 'timm', 'huggingface'],
        default=NATIVE,
        help='layout of DST; default: ours',
    )
    parser.add_argument('--config', help='config of the model; videomae, timm and huggingface need its clip size')
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Convert.

    Raises:
        ValueError: SRC cannot be read, its layout is unknown or incomplete, it does not fit the config or the layout
            asked for, or DST is SRC.
    """
    args = parse_args(argv)
    if os.path.realpath(args.src) == os.path.realpath(args.dst):
        raise ValueError(f'DST={args.dst} is SRC, which would be overwritten while it is read. Name another file.')
    state_dict, meta = load_file(args.src)
    source = args.source or recognise(state_dict)
    try:
        weights, left = translate(state_dict, source)
        if args.to == 'multimae':
            weights = weights if is_multimodal(weights) else as_modality(weights)
        elif args.to != NATIVE and is_multimodal(weights):
            weights = take_modality(weights)
        if args.to in ('timm', 'huggingface'):
            weights = _write_folder(weights, args)
        else:
            kept = {key: str(meta[key]) for key in ('weights', 'epoch', 'iter') if key in meta}
            if args.to in EXPORTS:
                weights = EXPORTS[args.to](weights)
            elif args.to == 'videomae':
                weights = export_videomae(weights, positions=_positions(args))
            save_file(weights, args.dst, {'converted_from': str(source), **kept})
    except ValueError as error:
        raise ValueError(f'{args.src}: {error}') from error
    kind = f', {WEIGHTS[meta["weights"]]}' if meta.get('weights') in WEIGHTS else ''
    print(f'{args.src} (layout {source}): {len(weights)} tensors -> {args.dst} (layout {args.to}){kind}')
    if left:
        print(f'{len(left)} tensors have no place in our models and are left: {", ".join(left)}')


def _own_model(args: argparse.Namespace) -> Config:
    """The config's model, whose backbone is one of ours."""
    cfg = load_config(args.config).model
    if 'tokenizers' not in cfg.backbone and not hasattr(MODELS.get(cfg.backbone.type), 'fixed_positions'):
        raise ValueError(f'--to {args.to}: no published layout has names for the weights of a {cfg.backbone.type}.')
    return cfg


def _positions(args: argparse.Namespace) -> StateDict:
    """Tables of a new model, for which one block is enough."""
    if args.config is None:
        raise ValueError(f'--to {args.to} needs --config: it can hold the fixed positions alone, of that clip size.')
    cfg = _own_model(args)
    for part in (cfg.backbone, cfg.get('head')):
        if part is not None and 'type' in part:
            part.depth = 1
    cfg.init_cfg = None
    return {key: x for key, x in MODELS.build(cfg).state_dict().items() if key.endswith('pos_embed')}


def _write_folder(weights: StateDict, args: argparse.Namespace) -> StateDict:
    if args.config is None:
        raise ValueError(f'--to {args.to} needs --config: weights alone tell neither clip size nor number of heads.')
    # of the model: grid, heads and the fixed positions, for which one block is enough
    cfg = _own_model(args)
    backbone = MODELS.build({**cfg.backbone, 'depth': 1, 'init_cfg': None})
    pool = getattr(backbone, 'pool', 'mean')
    if pool == 'cls' and 'norm.weight' in weights and args.to == 'timm':
        raise ValueError(f"--to {args.to} is for heads on the mean of the tokens, and {args.config} has pool='cls'.")
    tokenizers = getattr(backbone, 'tokenizers', {})
    stem = tokenizers['rgb'] if 'rgb' in tokenizers else backbone  # of several modalities the colours are exported
    positions = stem.fixed_positions()
    if positions is not None:
        weights.setdefault('backbone.pos_embed', positions)  # VideoMAE's files do without
    facts = dict(grid=stem.grid, num_heads=backbone.blocks[0].attn.num_heads)
    if args.to == 'timm':
        pixels = cfg.get('data_preprocessor') or {}
        facts |= {key: pixels[key] for key in ('mean', 'std') if key in pixels}
        exported, config = export_timm(weights, **facts)
    elif CLS_TOKEN in weights:
        exported, config = export_vit_mae(weights, **facts, pool=pool, decoder=_mae_decoder(weights, cfg, backbone))
    elif positions is None:
        raise ValueError('VideoMAE of transformers has fixed positions, and this model learns them. Export to timm.')
    else:
        exported, config = export_huggingface(weights, **facts, positions=positions)
    folder = Path(args.dst)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(exported, folder / 'model.safetensors', {'format': 'pt'})
    (folder / 'config.json').write_text(json.dumps(config, indent=2) + '\n')
    return exported


def _mae_decoder(weights: StateDict, cfg: Config, backbone: Any) -> MAEDecoder | None:
    """What weights of pretraining do not tell of their decoder."""
    if not is_pretraining(weights):
        return None
    head = cfg.head if 'type' in cfg.head else next(iter(cfg.head.values()))  # several are refused later
    learned = dict(in_dim=backbone.embed_dim, patch_size=backbone.patch_size, grid=backbone.grid, num_extra_tokens=1)
    built: Any = MODELS.build({**head, **learned, 'depth': 1})
    ratio = cfg.mask_generator.get('image', {}).get('ratio', 0.75)
    return MAEDecoder(built.blocks[0].attn.num_heads, built.target.normalize, ratio)


if __name__ == '__main__':
    main()
