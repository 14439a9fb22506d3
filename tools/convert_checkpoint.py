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

from omnimae.checkpoint import (
    LAYOUTS,
    NATIVE,
    WEIGHTS,
    Checkpoint,
    export,
    export_timm,
    export_transformers,
    save_file,
    to_multimodal,
    to_plain,
)
from omnimae.commands import add_cfg_options
from omnimae.config import load_config
from omnimae.registry import MODELS

FOLDERS = ('timm', 'huggingface')  # what transformers calls VideoMAE, ViTMAE and ViT


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
    checkpoint = Checkpoint.read(args.src, args.source)
    weights, left = checkpoint.translated()
    try:
        if args.to == 'multimae' and not Checkpoint(weights).modalities:
            weights, _ = to_multimodal(weights)
        elif args.to not in (NATIVE, 'multimae') and Checkpoint(weights).modalities:
            weights, _ = to_plain(weights)
        if args.to in FOLDERS:
            weights = _write_folder(weights, args)
        else:
            if args.to != NATIVE:
                weights = export(weights, args.to, positions=_positions(args))
            kept = {key: str(checkpoint.meta[key]) for key in ('weights', 'epoch', 'iter') if key in checkpoint.meta}
            save_file(weights, args.dst, {'converted_from': str(checkpoint.layout), **kept})
    except ValueError as error:
        raise ValueError(f'{args.src}: {error}') from error
    kind = f', {WEIGHTS[checkpoint.weights]}' if checkpoint.weights in WEIGHTS else ''
    print(f'{args.src} (layout {checkpoint.layout}): {len(weights)} tensors -> {args.dst} (layout {args.to}){kind}')
    if left:
        print(f'{len(left)} tensors have no place in our models and are left: {", ".join(left)}')


def _build(args: argparse.Namespace) -> tuple[Config, Any]:
    """Build the config's model for its grid, heads and fixed positions: one block is enough."""
    cfg = load_config(args.config, args.cfg_options).model
    if 'tokenizers' not in cfg.backbone and not hasattr(MODELS.get(cfg.backbone.type), 'fixed_positions'):
        raise ValueError(f'--to {args.to}: no published layout has names for the weights of a {cfg.backbone.type}.')
    cfg.backbone.depth, cfg.init_cfg = 1, None
    if cfg.get('num_classes', 0) is None:
        cfg.num_classes = 1
    return cfg, MODELS.build(cfg)


def _positions(args: argparse.Namespace) -> dict[str, Any]:
    """Fixed positions of a new model, for layouts that hold no others."""
    if args.to == 'mae' or not LAYOUTS[args.to].fixed_positions:
        return {}
    if args.config is None:
        raise ValueError(f'--to {args.to} needs --config: it can hold the fixed positions alone, of that clip size.')
    return {key: x for key, x in _build(args)[1].state_dict().items() if key.endswith('pos_embed')}


def _write_folder(weights: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    if args.config is None:
        raise ValueError(f'--to {args.to} needs --config: weights alone tell neither clip size nor number of heads.')
    cfg, model = _build(args)
    if args.to == 'timm':
        pixels = cfg.get('data_preprocessor') or {}
        given = {key: pixels[key] for key in ('mean', 'std') if key in pixels}
        exported, config = export_timm(weights, model.backbone, **given)
    else:
        is_mae = Checkpoint(weights).kind == 'pretraining' and 'backbone.cls_token' in weights
        exported, config = export_transformers(weights, model.backbone, _decoder(cfg, model.head) if is_mae else None)
    folder = Path(args.dst)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(exported, folder / 'model.safetensors', {'format': 'pt'})
    (folder / 'config.json').write_text(json.dumps(config, indent=2) + '\n')
    return exported


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
