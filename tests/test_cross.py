"""CrossMAE's decoder: the numbers of its released code, independent queries, and a part of the hidden tokens."""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.registry import DefaultScope
from test_flops import counted_macs
from tiny_models import batches, model_config
from torch import Tensor

from omnimae.checkpoint import export, load_weights, recognise, translate
from omnimae.config import load_config
from omnimae.flops import pretraining_rows
from omnimae.models import CrossMAEHead
from omnimae.registry import MODELS
from omnimae.structures import Masks
from omnimae.visualization.reconstructions import reconstruct

CONFIGS = Path(__file__).parents[1] / 'configs' / 'omnimae'
GOLDEN = Path(__file__).parent / 'data' / 'crossmae_tiny.json'
CHECKOUT = os.environ.get('CROSSMAE')  # of github.com/TonyLianLong/CrossMAE; needs timm
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MIXED = {'plain': False, 'weighted feature maps': True}


@pytest.fixture(autouse=True)
def _scope(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr('omnimae.models.ops.USE_ONEDNN', False)  # whose products torch's counter does not know
    with DefaultScope.overwrite_default_scope('omnimae'):
        yield


def waves(shape: tuple[int, ...], phase: float) -> Tensor:
    """Numbers between -1 and 1 that every version of torch makes alike."""
    steps = torch.arange(math.prod(shape), dtype=torch.float64)
    return torch.sin(1.7 * steps + phase).view(shape).float()


def autoencoder(backbone: dict | None = None, **more: Any) -> torch.nn.Module:
    size = dict(embed_dim=16, depth=2, num_heads=2, patch_size=(1, 8, 8), clip_size=(1, 32, 32))
    backbone = dict(type='SpatioTemporalViT', positions='sincos2d', cls_token=True, **size) | (backbone or {})
    target = dict(type='PixelTarget', normalize='patch', mean=MEAN, std=STD)
    head = dict(type='CrossMAEHead', embed_dim=8, depth=2, num_heads=2, positions=backbone['positions'], target=target)
    rest = {key: more.pop(key) for key in ('decode_ratio',) if key in more}
    modality = 'image' if backbone['clip_size'][0] == 1 else 'video'
    masks = {modality: dict(type='RandomMasking', ratio=0.75, round_down='visible')}
    return MODELS.build(
        dict(type='MaskedAutoencoder', backbone=backbone, head=head | more, mask_generator=masks, **rest)
    )


def with_waves(model: torch.nn.Module) -> torch.nn.Module:
    with torch.no_grad():
        for phase, (name, x) in enumerate(sorted(model.named_parameters())):
            x.copy_(0.3 * waves(tuple(x.shape), phase) + ('norm' in name and name.endswith('weight')))
    return model


def released(mixed: bool) -> dict[str, Any]:
    """Run the released code: what it sees, and its weights, predictions, loss and gradients."""
    sys.path[:0] = [CHECKOUT]
    import models_cross  # noqa: PLC0415

    size = dict(img_size=32, patch_size=8, embed_dim=16, depth=2, num_heads=2, decoder_embed_dim=8, decoder_depth=2)
    model = models_cross.MaskedAutoencoderViT(
        **size, decoder_num_heads=2, norm_pix_loss=True, weight_fm=mixed, use_input=mixed,
        norm_layer=lambda dim: torch.nn.LayerNorm(dim, eps=1e-6),
    )  # fmt: skip
    if not mixed:
        model.norm = torch.nn.LayerNorm(16, eps=1e-6)  # its forward has it, its constructor does not
    weights = {key: x for key, x in model.state_dict().items() if 'pos_embed' not in key}
    for phase, (key, x) in enumerate(sorted(weights.items())):
        x.copy_(0.3 * waves(tuple(x.shape), phase) + ('norm' in key and key.endswith('weight')))
    image = waves((2, 3, 32, 32), 0.5)
    torch.manual_seed(0)
    latent, mask, restore, _ = model.forward_encoder(image, 0.75, 0.25)
    prediction, _ = model.forward_decoder(latent, mask, restore, None, 0.75, 0.25)
    loss, _ = model.forward_loss(image, prediction, mask, None)
    loss.backward()
    return dict(
        shapes={key: list(x.shape) for key, x in sorted(weights.items())},
        visible=[sorted((row < 4).nonzero()[:, 0].tolist()) for row in restore],
        decode=[row.nonzero()[:, 0].tolist() for row in mask],
        loss=loss.item(),
        prediction=[round(x, 6) for x in prediction.detach().flatten()[::24].tolist()],
        gradients={k: float(f'{x.grad.norm().item():.6g}') for k, x in model.named_parameters() if x.grad is not None},
    )


def golden_file(entry: dict[str, Any]) -> dict[str, Tensor]:
    """The weights of the golden model, by the names of CrossMAE."""
    state = {
        key: 0.3 * waves(tuple(shape), phase) + ('norm' in key and key.endswith('weight'))
        for phase, (key, shape) in enumerate(entry['shapes'].items())
    }
    ours = autoencoder().state_dict()
    for theirs, key in (('pos_embed', 'backbone.pos_embed'), ('decoder_pos_embed', 'head.pos_embed')):
        state[theirs] = torch.cat([torch.zeros_like(ours[key][:, :1]), ours[key]], 1)
    return state


@pytest.mark.skipif(not CHECKOUT, reason='CROSSMAE names no checkout of its code')
def test_the_golden_numbers_are_those_of_the_released_code():
    entries = {name: released(mixed) for name, mixed in MIXED.items()}
    if os.environ.get('UPDATE_GOLDEN'):
        GOLDEN.write_text(json.dumps(entries) + '\n')
    assert json.loads(json.dumps(entries)) == json.loads(GOLDEN.read_text())


@pytest.mark.parametrize('name', MIXED)
def test_loss_and_gradients_of_a_released_model(name: str, tmp_path: Path):
    entry = json.loads(GOLDEN.read_text())[name]
    state = golden_file(entry)
    torch.save({'model': state}, tmp_path / 'crossmae.pth')
    model = autoencoder(layers=range(3)) if MIXED[name] else autoencoder()
    report = load_weights(model, tmp_path / 'crossmae.pth', complete=True)
    assert (report.source, report.left, report.initialised, report.fixed) == ('crossmae', (), (), ())
    clip = waves((2, 3, 32, 32), 0.5).unsqueeze(2)
    masks = Masks(torch.tensor(entry['visible']), torch.tensor(entry['decode']))
    loss = model(clip, 'image', masks)['loss']
    assert loss.item() == pytest.approx(entry['loss'], rel=2e-6)
    patches = torch.stack([row['patches'] for row in model.predict(clip, 'image', masks)])
    torch.testing.assert_close(patches.flatten()[::24], torch.tensor(entry['prediction']), rtol=0, atol=1e-5)
    loss.backward()
    gradients = {key: x.grad for key, x in model.named_parameters()}
    for key in ('backbone.pos_embed', 'head.pos_embed'):
        gradients[key] = torch.zeros_like(model.state_dict()[key])
    norms = {key: x.norm().item() for key, x in export(gradients, 'crossmae').items()}
    assert {key: norms[key] for key in entry['gradients']} == pytest.approx(entry['gradients'], rel=1e-4, abs=1e-7)


@pytest.mark.parametrize('name', MIXED)
def test_the_file_comes_back(name: str):
    state = golden_file(json.loads(GOLDEN.read_text())[name])
    assert recognise(state) == 'crossmae'
    back = export(translate(state)[0], 'crossmae')
    assert back.keys() == state.keys()
    assert all(torch.equal(x, back[key]) for key, x in state.items())


def test_its_encoder_is_fine_tuned_and_probed(tmp_path: Path):
    state = golden_file(json.loads(GOLDEN.read_text())['weighted feature maps'])
    torch.save({'model': state}, tmp_path / 'crossmae.pth')
    backbone = dict(type='SpatioTemporalViT', embed_dim=16, depth=2, num_heads=2, positions='sincos2d', cls_token=True)
    backbone |= dict(patch_size=(1, 8, 8), clip_size=(1, 32, 32))
    classifier = MODELS.build(dict(type='Classifier', backbone=backbone, num_classes=3))
    report = load_weights(classifier, tmp_path / 'crossmae.pth')
    assert report.initialised == ('norm.weight', 'norm.bias', 'head.weight', 'head.bias')
    frozen = MODELS.build(dict(type='FrozenBackbone', backbone=dict(backbone, final_norm=False)))
    assert load_weights(frozen, tmp_path / 'crossmae.pth', complete=True).initialised == ()
    with pytest.raises(ValueError, match=r'--cfg-options model\.backbone\.final_norm=False$'):
        load_weights(MODELS.build(dict(type='FrozenBackbone', backbone=backbone)), tmp_path / 'crossmae.pth')


def test_only_its_own_layout_holds_it():
    weights = autoencoder().state_dict()
    for layout in ('omnimae', 'timm', 'mae_st', 'vit_mae'):
        with pytest.raises(ValueError, match='is that of'):
            export(weights, layout)
    with pytest.raises(ValueError, match='is that of image ViTs with a class token'):
        export(autoencoder(dict(cls_token=False)).state_dict(), 'crossmae')
    state = golden_file(json.loads(GOLDEN.read_text())['weighted feature maps'])
    del state['decoder_blocks.1.cross_attn.kv.bias'], state['dec_norms.0.weight']
    with pytest.raises(ValueError, match=r'Missing keys: decoder_blocks.1.cross_attn.kv.bias, dec_norms.0.weight'):
        translate(state)


def test_another_decoder_is_named(tmp_path: Path):
    torch.save(autoencoder().state_dict(), tmp_path / 'cross.pth')
    torch.save(autoencoder(type='MAEHead', tokens='decoder').state_dict(), tmp_path / 'mae.pth')
    with pytest.raises(ValueError, match=r"two kinds. Set head.type='CrossMAEHead'"):
        load_weights(autoencoder(type='MAEHead', tokens='decoder'), tmp_path / 'cross.pth')
    with pytest.raises(ValueError, match=r"two kinds. Set head.type='MAEHead'"):
        load_weights(autoencoder(), tmp_path / 'mae.pth')


VIDEO = dict(patch_size=(2, 8, 8), clip_size=(4, 32, 32), positions='sincos1d', cls_token=False)


@pytest.mark.parametrize('layers', [None, range(3), (0, 2)])
def test_a_prediction_depends_on_what_is_visible_alone(layers: Any):
    """Each is the same however many others are decoded, and in which order; it differs by what is seen and where."""
    torch.manual_seed(0)
    model = with_waves(autoencoder(VIDEO, layers=layers)).eval()
    clip = torch.randint(256, (2, 3, 4, 32, 32), dtype=torch.uint8)
    whole = model.draw_masks(clip)
    some = Masks(whole.visible.flip(1), whole.decode[:, [5, 0, 3]])

    def patches(masks: Masks, clip: Tensor = clip) -> Tensor:
        return torch.stack([row['patches'] for row in model.predict(clip, 'video', masks)])

    expected = patches(whole)
    torch.testing.assert_close(patches(some), expected[:, [5, 0, 3]], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(patches(whole, 255 - clip), expected, atol=1e-3)
    assert not torch.allclose(expected[:, 0], expected[:, 1], atol=1e-3)


def test_layers_are_those_of_the_encoder():
    model = with_waves(autoencoder(VIDEO, layers=range(3))).eval()
    backbone = model.backbone
    patches, grid = backbone.patchify(torch.rand(2, 3, 4, 32, 32))
    layers = backbone.encode_layers(patches, grid, [0, 1, 2])
    assert torch.equal(layers[2], backbone.encode(patches, grid))  # no norm where a decoder reads layers
    assert torch.equal(layers[1], backbone.blocks[0](layers[0]))
    assert torch.equal(backbone.encode_layers(patches, grid, [1, 2]), layers[1:])
    head = model.head
    read = head._contexts(layers)
    mixed = sum(weight * x for weight, x in zip(head.layer_weights[1], layers, strict=True))
    torch.testing.assert_close(read[1], head.layer_norms[1](mixed))


@pytest.mark.parametrize('layers', [[], [0, 1], [2, 1], [1, 1, 2], [-1, 2], [2, 3]])
def test_layers_that_the_encoder_has_not(layers: list[int]):
    with pytest.raises(ValueError, match=r'CrossMAEHead: layers=.* All are range\(3\)'):
        autoencoder(layers=layers)


def test_wrong_arguments():
    with pytest.raises(ValueError, match='num_heads=3 does not divide embed_dim=8'):
        autoencoder(num_heads=3)
    with pytest.raises(ValueError, match=r"qkv_bias='qv' is unknown. Choose True or False"):
        autoencoder(qkv_bias='qv')
    for ratio in (0, 1.5):
        with pytest.raises(ValueError, match=f'decode_ratio={ratio} must lie above 0'):
            autoencoder(decode_ratio=ratio)


@pytest.mark.parametrize('kind', ['MAEHead', 'CrossMAEHead'])
def test_a_part_is_decoded_in_training_and_all_in_predictions(kind: str):
    cfg = model_config('pretrain')
    cfg['head'] = dict(type=kind, embed_dim=16, depth=1, num_heads=2)
    cfg['decode_ratio'] = 0.25
    model, complete = MODELS.build(cfg), MODELS.build({**cfg, 'decode_ratio': 1.0})
    for given in batches(cfg):
        torch.manual_seed(1)
        masks = model.draw_masks(**given)
        torch.manual_seed(1)
        whole = complete.draw_masks(**given)
        assert torch.equal(masks.visible, whole.visible)
        assert masks.decode.shape[1] == round(whole.decode.shape[1] / 4)
        rows = [({*part.tolist()}, {*row.tolist()}) for part, row in zip(masks.decode, whole.decode, strict=True)]
        assert all(part < row and len(part) == masks.decode.shape[1] for part, row in rows)
        assert len({tuple(part) for part, _ in rows}) > 1  # drawn for each sample
        torch.manual_seed(1)  # the address of a step
        loss = model(**given)['loss']
        assert loss.item() == pytest.approx(model(**given, masks=masks)['loss'].item())
        clip, modality = given['clip'], given['modality']
        assert all(len(row['decode']) == whole.decode.shape[1] for row in model.predict(clip, modality))
        assert 'the others stay grey' not in reconstruct(model, clip[0], modality).caption


def test_a_part_of_what_is_scored():
    masks = Masks(torch.arange(2)[None], torch.arange(2, 10)[None], torch.arange(8)[None] % 2 == 0)
    part = masks.part(0.5)
    assert part.decode.shape == part.scored.shape == (1, 4)
    assert torch.equal(part.scored, part.decode % 2 == 0)
    drawn = torch.cat([Masks(masks.visible.expand(400, -1), masks.decode.expand(400, -1)).part(0.5).decode])
    counts = drawn.flatten().bincount()[2:]
    assert counts.tolist() == pytest.approx([200] * 8, abs=60)  # all equally likely: 6 standard deviations
    assert masks.part(0.01).decode.shape == (1, 1)


@pytest.mark.parametrize('layers', [None, range(3)])
def test_the_count_is_what_torch_counts(layers: Any):
    model = autoencoder(VIDEO, layers=layers, decode_ratio=0.5)
    rows = {row.what: row for row in pretraining_rows(model)}
    row = rows['masked, as it runs']
    mixes = 0 if layers is None else 2 * 3 * row.num_visible * 16
    visible, decoded = 8, 12
    by_hand = 2 * (visible * 16 * 16 + decoded * (2 * 64 + 2 * 256) + 2 * decoded * visible * 8) + decoded * 8 * 384
    assert row.decoder == by_hand + mixes
    clip = torch.zeros(3, 3, 4, 32, 32)
    assert counted_macs(lambda: model.loss(clip, 'video')) == 3 * row.total
    assert row.decoder < rows['masked for the encoder alone'].decoder < rows['all tokens'].decoder


@pytest.mark.parametrize('path', sorted(CONFIGS.glob('*_cross.py')), ids=lambda path: path.stem)
def test_the_configs_differ_from_omnimae_in_the_decoder(path: Path):
    cfg, base = (load_config(path.with_name(name)) for name in (path.name, path.name.replace('_cross', '')))
    with torch.device('meta'):
        head = MODELS.build(cfg.model).head
    assert isinstance(head, CrossMAEHead)
    assert len(head.blocks) == base.model.head.depth
    assert cfg.model.pop('head').target == base.model.pop('head').target
    cfg.model.pop('decode_ratio', None)
    assert cfg.model == base.model
    assert [cfg[key] == base[key] for key in ('optim_wrapper', 'param_scheduler', 'train_dataloader')] == [True] * 3
