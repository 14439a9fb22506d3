"""ViTMAE and ViT of transformers, in and out, and classifiers whose head reads one token."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch
from mmengine.registry import DefaultScope

from omnimae.checkpoint import load_file, load_weights, recognise, save_file, translate
from omnimae.registry import MODELS
from omnimae.structures import Masks

transformers = pytest.importorskip('transformers')

ROOT = Path(__file__).parents[1]
SIZES = dict(
    image_size=32, patch_size=8, hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=192,
    layer_norm_eps=1e-6,
)  # fmt: skip
DECODER = dict(
    decoder_hidden_size=32, decoder_num_hidden_layers=2, decoder_num_attention_heads=2, decoder_intermediate_size=128
)
BACKBONE = dict(
    type='SpatioTemporalViT', embed_dim=48, depth=2, num_heads=4, patch_size=(1, 8, 8), clip_size=(1, 32, 32),
    positions='sincos2d', cls_token=True,
)  # fmt: skip
HEAD = dict(type='MAEHead', embed_dim=32, depth=2, num_heads=2, qkv_bias=True, positions='sincos2d', tokens='decoder')
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture(autouse=True)
def _scope():
    with DefaultScope.overwrite_default_scope('omnimae'):
        yield


def mae(normalize: str | None = 'patch') -> torch.nn.Module:
    target = dict(type='PixelTarget', normalize=normalize, mean=MEAN, std=STD)
    generator = dict(image=dict(type='RandomMasking', ratio=0.75))
    return MODELS.build(
        dict(
            type='MaskedAutoencoder', backbone=BACKBONE, head=dict(HEAD, target=target), mask_generator=generator,
            data_preprocessor=dict(type='ClipPreprocessor', mean=MEAN, std=STD),
        )
    ).eval()  # fmt: skip


def classifier(**backbone) -> torch.nn.Module:
    return MODELS.build(dict(type='Classifier', backbone=dict(BACKBONE, **backbone), num_classes=5)).eval()


@torch.no_grad()
def with_random_weights(model: torch.nn.Module) -> torch.nn.Module:
    """Everything is drawn but the position of the class token, which our decoder does not have."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
        if name.endswith('decoder_pos_embed'):
            parameter[:, 0] = 0
    return model.eval()


def old_names(key: str) -> str:
    """Of files on the hub, which transformers 4 wrote."""
    return key.replace('decoder.decoder_encoder.layer.', 'decoder.decoder_layers.')


def run_tool(words: list[str]) -> None:
    runpy.run_path(str(ROOT / 'tools' / 'convert_checkpoint.py'))['main'](words)


def config_of(path: Path, model: str) -> Path:
    path.write_text(f"_base_ = ['{ROOT}/configs/_base_/default_runtime.py']\nmodel = dict({model})\n")
    return path


@torch.no_grad()
@pytest.mark.parametrize('spelling', ['memory', 'saved', 'hub'])
def test_a_pretraining_model_comes_in_with_equal_losses(tmp_path: Path, spelling: str):
    config = transformers.ViTMAEConfig(**SIZES, **DECODER, norm_pix_loss=True, mask_ratio=0.75)
    theirs = with_random_weights(transformers.ViTMAEForPreTraining(config))
    path = tmp_path / 'model.safetensors'
    theirs.save_pretrained(tmp_path)
    if spelling != 'saved':
        state = theirs.state_dict()
        if spelling == 'hub':
            state = {old_names(key): x for key, x in load_file(path)[0].items()}
            assert 'decoder.decoder_layers.0.attention.attention.query.weight' in state
        save_file(state, path, {})
    ours = mae()
    report = load_weights(ours, path, complete=True)
    assert (report.source, report.left, report.initialised) == ('vit_mae', (), ())
    image, noise = torch.randn(3, 3, 32, 32), torch.rand(3, 16)
    expected = theirs(image, noise=noise)
    result = ours.predict(image.unsqueeze(2), 'image', Masks.from_hidden(expected.mask.bool()))
    patches = torch.stack([row['patches'] for row in result])
    hidden = expected.logits[expected.mask.bool()].view(3, 12, -1)
    torch.testing.assert_close(patches, hidden, rtol=1e-4, atol=1e-4)
    loss = ours.loss(image.unsqueeze(2), 'image', Masks.from_hidden(expected.mask.bool()))['loss']
    torch.testing.assert_close(loss, expected.loss, rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize('kind', ['ViTMAEModel', 'ViTModel'])
def test_an_encoder_comes_in(tmp_path: Path, kind: str):
    config = dict(ViTMAEModel=transformers.ViTMAEConfig, ViTModel=transformers.ViTConfig)[kind](**SIZES)
    config.mask_ratio = 0.0
    theirs = with_random_weights(getattr(transformers, kind)(config))
    theirs.save_pretrained(tmp_path)
    ours = MODELS.build(dict(type='FrozenBackbone', backbone=BACKBONE)).eval()
    report = load_weights(ours, tmp_path / 'model.safetensors', complete=True)
    assert report.left == (('pooler.dense.bias', 'pooler.dense.weight') if kind == 'ViTModel' else ())
    image = torch.randn(2, 3, 32, 32)
    order = {} if kind == 'ViTModel' else dict(noise=torch.arange(16.0).expand(2, -1))
    tokens = theirs(image, **order).last_hidden_state
    torch.testing.assert_close(ours.backbone(image.unsqueeze(2)), tokens[:, 1:], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_head_on_the_class_token_comes_in_where_the_model_reads_it(tmp_path: Path):
    theirs = with_random_weights(transformers.ViTForImageClassification(transformers.ViTConfig(**SIZES, num_labels=5)))
    theirs.save_pretrained(tmp_path)
    path = tmp_path / 'model.safetensors'
    ours = classifier(pool='cls')
    report = load_weights(ours, path, complete=True)
    assert (report.left, report.initialised) == ((), ())
    image = torch.randn(2, 3, 32, 32)
    expected = theirs(image).logits
    torch.testing.assert_close(ours.logits(image.unsqueeze(2)), expected, rtol=1e-4, atol=1e-4)

    other = classifier()
    with pytest.raises(
        ValueError,
        match=r"its head reads the class token, and the model has pool='mean'\. Run the same command and "
        r'--cfg-options model\.backbone\.pool=cls model\.backbone\.cls_token=True$',
    ):
        load_weights(other, path, complete=True)
    assert {'head.weight', 'head.bias'} <= {*load_weights(other, path).left}  # to fine-tune from

    timm = pytest.importorskip('timm')
    token = timm.models.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=4, num_classes=5, global_pool='token'
    )
    torch.save(with_random_weights(token).state_dict(), tmp_path / 'timm.pth')
    load_weights(ours, tmp_path / 'timm.pth', complete=True)
    torch.testing.assert_close(ours.logits(image.unsqueeze(2)), token(image), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_head_on_the_mean_is_not_read_off_the_class_token(tmp_path: Path):
    timm = pytest.importorskip('timm')
    mean = timm.models.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=4, num_classes=5, global_pool='avg'
    )
    state = with_random_weights(mean).state_dict()
    torch.save(state, tmp_path / 'mean.pth')
    ours, image = classifier(), torch.randn(2, 3, 32, 32)
    load_weights(ours, tmp_path / 'mean.pth', complete=True)
    torch.testing.assert_close(ours.logits(image.unsqueeze(2)), mean(image), rtol=1e-4, atol=1e-4)
    with pytest.raises(
        ValueError, match=r"reads the mean of the patches, and .*'cls'\. Run .*--cfg-options model\.backbone\.pool=mean"
    ):
        load_weights(classifier(pool='cls'), tmp_path / 'mean.pth', complete=True)
    _, left = translate(state, pool='cls')
    assert {*left} == {'norm.weight', 'norm.bias', 'head.weight', 'head.bias'}


@torch.no_grad()
def test_videomae_s_head_on_its_first_patch_has_no_place(tmp_path: Path):
    config = transformers.VideoMAEConfig(**SIZES, num_frames=4, num_labels=5, use_mean_pooling=False)
    with_random_weights(transformers.VideoMAEForVideoClassification(config)).save_pretrained(tmp_path)
    backbone = dict(positions='sincos1d', cls_token=False, patch_size=(2, 8, 8), clip_size=(4, 32, 32), qkv_bias='qv')
    model = classifier(**backbone)
    with pytest.raises(ValueError, match=r'its head reads the first patch alone \(VideoMAE.s use_mean_pooling=False\)'):
        load_weights(model, tmp_path / 'model.safetensors', complete=True)
    report = load_weights(model, tmp_path / 'model.safetensors')
    assert {'head.weight', 'head.bias', 'backbone.norm.weight', 'backbone.norm.bias'} == {*report.left}
    assert 'backbone.blocks.1.attn.qkv.weight' in report.loaded


MODEL = """
    type='MaskedAutoencoder',
    backbone=dict(type='SpatioTemporalViT', embed_dim=48, depth=2, num_heads=4, patch_size=(1, 8, 8),
                  clip_size=(1, 32, 32), positions='sincos2d', cls_token=True),
    head=dict(type='MAEHead', embed_dim=32, depth=2, num_heads=2, qkv_bias=True, positions='sincos2d', tokens='decoder',
              target=dict(type='PixelTarget', normalize={normalize!r})),
    mask_generator=dict(image=dict(type='RandomMasking', ratio=0.75)),
"""
CLASSIFIER = MODEL[: MODEL.index('    head=')].replace('MaskedAutoencoder', 'Classifier') + 'num_classes=5,\n'


@torch.no_grad()
def test_our_pretraining_model_goes_out_with_equal_losses(tmp_path: Path):
    ours = with_random_weights(mae())
    save_file(ours.state_dict(), tmp_path / 'ours.pth', {})
    config = config_of(tmp_path / 'config.py', MODEL.format(normalize='patch'))
    run_tool([str(tmp_path / 'ours.pth'), str(tmp_path / 'out'), '--to', 'huggingface', '--config', str(config)])
    theirs, info = transformers.ViTMAEForPreTraining.from_pretrained(tmp_path / 'out', output_loading_info=True)
    assert not any(info.values())
    image, noise = torch.randn(3, 3, 32, 32), torch.rand(3, 16)
    result = theirs.eval()(image, noise=noise)
    assert result.mask.sum(1).tolist() == [12, 12, 12]
    loss = ours.loss(image.unsqueeze(2), 'image', Masks.from_hidden(result.mask.bool()))['loss']
    torch.testing.assert_close(loss, result.loss, rtol=1e-5, atol=1e-5)

    assert recognise(load_file(tmp_path / 'out' / 'model.safetensors')[0]) == 'vit_mae'
    again = mae()
    load_weights(again, tmp_path / 'out' / 'model.safetensors', complete=True)
    for key, x in ours.state_dict().items():
        assert torch.equal(again.state_dict()[key], x), key

    encoder, info = transformers.ViTMAEModel.from_pretrained(tmp_path / 'out', mask_ratio=0.0, output_loading_info=True)
    assert not info['missing_keys']
    tokens = encoder.eval()(image, noise=torch.arange(16.0).expand(3, -1)).last_hidden_state
    torch.testing.assert_close(tokens[:, 1:], ours.backbone(image.unsqueeze(2)), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_our_classifier_of_the_class_token_goes_out(tmp_path: Path):
    ours = with_random_weights(classifier(pool='cls', train_positions=True))
    save_file(ours.state_dict(), tmp_path / 'ours.pth', {})
    config = config_of(tmp_path / 'cls.py', CLASSIFIER.replace('cls_token=True', "cls_token=True, pool='cls'"))
    run_tool([str(tmp_path / 'ours.pth'), str(tmp_path / 'out'), '--to', 'huggingface', '--config', str(config)])
    theirs, info = transformers.ViTForImageClassification.from_pretrained(tmp_path / 'out', output_loading_info=True)
    assert not any(info.values())
    image = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(theirs.eval()(image).logits, ours.logits(image.unsqueeze(2)), rtol=1e-4, atol=1e-4)
    config = config_of(tmp_path / 'mean.py', CLASSIFIER)
    with pytest.raises(ValueError, match=r"head on the class token, and this model has pool='mean'\. Export to timm"):
        run_tool([str(tmp_path / 'ours.pth'), str(tmp_path / 'out'), '--to', 'huggingface', '--config', str(config)])


def test_what_vit_mae_cannot_hold_is_refused(tmp_path: Path):
    save_file(mae('channel').state_dict(), tmp_path / 'ours.pth', {})
    words = [str(tmp_path / 'ours.pth'), str(tmp_path / 'out'), '--to', 'huggingface', '--config']
    config = config_of(tmp_path / 'channel.py', MODEL.format(normalize='channel'))
    with pytest.raises(ValueError, match=r"no target\.normalize='channel'\. Choose 'patch' or None"):
        run_tool([*words, str(config)])
    backbone = dict(BACKBONE, positions='sincos1d', patch_size=(2, 8, 8), clip_size=(4, 32, 32))
    save_file({f'backbone.{key}': x for key, x in MODELS.build(backbone).state_dict().items()}, words[0], {})
    video = MODEL.replace('(1, 8, 8)', '(2, 8, 8)').replace('(1, 32, 32)', '(4, 32, 32)').replace('2d', '1d')
    config = config_of(tmp_path / 'video.py', video.format(normalize=None))
    with pytest.raises(ValueError, match='patches of 2 frames, and this layout is for images alone'):
        run_tool([*words, str(config)])
