"""Checkpoints: safe reading, the nine published layouts both ways, and loading into models with clear refusals."""

from __future__ import annotations

import http.server
import re
import threading
from functools import partial
from pathlib import Path

import pytest
import torch
from mmengine.registry import DefaultScope

from omnimae.checkpoint import convert, export, load_file, load_weights, recognise, save_file
from omnimae.registry import MODELS

KEY_LISTS = Path(__file__).parent / 'data' / 'omnimae_released_keys.txt'


def read_key_lists() -> dict[str, dict[str, tuple[int, ...]]]:
    """Released file -> {key: shape}."""
    lists: dict[str, dict[str, tuple[int, ...]]] = {}
    for line in KEY_LISTS.read_text().splitlines():
        if line.startswith('['):
            shapes = lists[line[1 : line.index(']')]] = {}
        elif line and not line.startswith('#'):
            key, shape = line.split()
            blocks = re.search(r'\{0-(\d+)\}', key)
            for block in range(int(blocks[1]) + 1 if blocks else 1):
                shapes[re.sub(r'\{.*\}', str(block), key)] = tuple(map(int, shape.split(',')))
    return lists


RELEASED = read_key_lists()
SIZES = {
    'vitb': dict(arch='base', patch_size=(2, 16, 16), head=dict(embed_dim=384, depth=4)),
    'vitl': dict(arch='large', patch_size=(2, 16, 16), head=dict(embed_dim=512, depth=4)),
    'vith': dict(arch='huge', patch_size=(2, 14, 14), head=dict(embed_dim=512, depth=8)),
}


@pytest.fixture(autouse=True)
def _scope():
    with DefaultScope.overwrite_default_scope('omnimae'):
        yield


def released_state(name: str) -> dict[str, torch.Tensor]:
    """Every released key at its real shape, filled with a number of its own; takes no memory."""
    return {key: torch.tensor(0.5 + i).expand(shape) for i, (key, shape) in enumerate(RELEASED[name].items())}


def tiny_autoencoder(*, dim=48, depth=2, qkv_bias=False, clip_size=(4, 32, 32), per_modality=False, init_cfg=None):
    head = dict(type='MAEHead', embed_dim=32, depth=1, num_heads=4, qkv_bias=qkv_bias)
    return MODELS.build(
        dict(
            type='MaskedAutoencoder',
            backbone=tiny_backbone(dim, depth, clip_size),
            head=dict(image=head, video=head) if per_modality else head,
            mask_generator=dict(video=dict(type='RandomMasking', ratio=0.5)),
            init_cfg=init_cfg,
        )
    )


def tiny_classifier(*, num_classes=5, dim=48, depth=2, init_cfg=None, backbone_init=None):
    backbone = dict(tiny_backbone(dim, depth, (4, 32, 32)), init_cfg=backbone_init)
    return MODELS.build(dict(type='Classifier', backbone=backbone, num_classes=num_classes, init_cfg=init_cfg))


def tiny_backbone(dim: int, depth: int, clip_size: tuple[int, int, int]) -> dict:
    size = dict(embed_dim=dim, depth=depth, num_heads=4)
    return dict(type='SpatioTemporalViT', **size, patch_size=(2, 8, 8), clip_size=clip_size)


def randomised(model, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    for tensor in model.state_dict().values():
        tensor.copy_(torch.randn(tensor.shape, generator=generator))
    return model


def released_twin(model) -> dict[str, torch.Tensor]:
    """Make the released state dict of a tiny pretraining model, named independently of the converter."""
    names = {
        r'^backbone\.patch_embed': 'trunk.patch_embed.proj.1',
        r'^backbone\.': 'trunk.',
        r'^head\.pred\.': 'HEAD.',
        r'^head\.blocks\.': 'trunk.decoder.decoder_blocks.',
        r'^head\.mask_token': 'trunk.mask_token',
        r'^head\.': 'trunk.decoder.',
    }
    twin = {}
    for key, value in model.state_dict().items():
        pattern = next(pattern for pattern in names if re.match(pattern, key))
        twin[re.sub(pattern, names[pattern], key).replace('HEAD', 'head')] = value
    return twin


def shapes(state: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in state.items()}


def assert_equal_states(one, other):
    assert set(one) == set(other)
    for key in one:
        assert torch.equal(one[key], other[key]), key


# ---------------------------------------------------------------------------------------------------------------------
# Layouts


def test_the_key_lists_are_the_published_nine():
    assert {name: len(keys) for name, keys in RELEASED.items()} == {
        'vitb_pretrain': 201, 'vitb_in1k_ft': 151, 'vitb_ssv2_ft': 151,
        'vitl_pretrain': 345, 'vitl_in1k_ft': 295, 'vitl_ssv2_ft': 295,
        'vith_pretrain': 485, 'vith_in1k_ft': 391, 'vith_ssv2_ft': 391,
    }  # fmt: skip


@pytest.mark.parametrize('name', RELEASED)
def test_released_layout_fits_our_model_of_that_size(name):
    size = SIZES[name[:4]]
    backbone = dict(type='SpatioTemporalViT', arch=size['arch'], patch_size=size['patch_size'])
    with torch.device('meta'):
        if name.endswith('pretrain'):
            head = dict(type='MAEHead', num_heads=16, qkv_bias=False, **size['head'])
            model = MODELS.build(dict(type='MaskedAutoencoder', backbone=backbone, head=head, mask_generator={}))
        else:
            num_classes = 1000 if 'in1k' in name else 174
            model = MODELS.build(dict(type='Classifier', backbone=backbone, num_classes=num_classes))
    assert shapes(convert(released_state(name))) == shapes(model.state_dict())


@pytest.mark.parametrize('name', RELEASED)
def test_released_layout_round_trip_keeps_every_value(name):
    state = released_state(name)
    assert recognise(state) == 'omnimae'
    ours = convert(state, 'omnimae')
    assert recognise(ours) == 'native'
    again = export(ours, 'omnimae')
    assert shapes(again) == RELEASED[name]
    assert all(again[key] is state[key] for key in state)


def test_each_tensor_lands_under_the_right_name():
    model = randomised(tiny_autoencoder())
    assert_equal_states(convert(released_twin(model)), model.state_dict())


@pytest.mark.parametrize(
    ('name', 'spelling'),
    [('vitb_pretrain', 'heads.0.projector.'), ('vitb_in1k_ft', 'heads.0.'), ('vitb_ssv2_ft', 'heads.0.0.')],
)
def test_trainer_checkpoint_equals_the_released_one(name, spelling):
    state = released_state(name)
    trainer = {re.sub(r'^head\.', spelling, key): value for key, value in state.items()}
    if name.endswith('pretrain'):
        extra = {f'trunk.decoder.decoder_blocks.{i}.attn.qkv.bias': torch.ones(1152) for i in range(4)}
        trainer, state = trainer | extra, state | extra
    ours = convert({'model': trainer, 'optimizer': {}, 'epoch': 3})
    assert_equal_states(ours, convert(state))
    assert_equal_states(export(ours), state)


def test_missing_and_unplaced_keys_are_listed():
    state = released_state('vitb_pretrain')
    del state['trunk.blocks.3.mlp.fc1.bias']
    state['trunk.cls_token'] = torch.zeros(1)
    listed = r'without a place: trunk\.cls_token\. Missing keys: trunk\.blocks\.3\.mlp\.fc1\.bias'
    with pytest.raises(ValueError, match=listed):
        convert(state)


def test_a_bias_in_one_decoder_block_only_is_refused():
    state = released_state('vitb_pretrain')
    state['trunk.decoder.decoder_blocks.2.attn.qkv.bias'] = torch.zeros(1152)
    with pytest.raises(ValueError, match=r'without a place: trunk\.decoder\.decoder_blocks\.2\.attn\.qkv\.bias'):
        convert(state)


def test_a_head_under_two_names_is_refused():
    state = released_state('vitb_in1k_ft')
    state['heads.0.weight'] = torch.zeros(1000, 768)
    with pytest.raises(ValueError, match=r'without a place: heads\.0\.weight'):
        convert(state)


def test_unknown_layouts_are_refused():
    with pytest.raises(ValueError, match=r'unknown; its keys are conv1\.weight\. Known layouts: native, omnimae'):
        convert({'conv1.weight': torch.zeros(1)})
    with pytest.raises(ValueError, match=r"source='omnimea' is unknown\. Choose from native, omnimae"):
        convert(released_state('vitb_in1k_ft'), 'omnimea')


def test_one_decoder_per_modality_has_no_released_layout():
    with pytest.raises(ValueError, match=r'this model has one for each: head\.image\., head\.video\.'):
        export(tiny_autoencoder(per_modality=True).state_dict())


# ---------------------------------------------------------------------------------------------------------------------
# Files


@pytest.mark.parametrize('name', ['weights.pth', 'weights.safetensors'])
def test_saved_weights_come_back_with_what_was_said_of_them(tmp_path, name):
    state = randomised(tiny_autoencoder()).state_dict()
    state['head.pos_embed'] = state['backbone.pos_embed']  # one storage for two tensors
    save_file(state, tmp_path / name, {'weights': 'ema', 'epoch': '7'})
    again, meta = load_file(tmp_path / name)
    assert_equal_states(again, state)
    assert meta == {'weights': 'ema', 'epoch': '7'}
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(('extra', 'weights'), [({}, 'raw'), ({'ema_state_dict': {}}, 'ema')])
def test_runner_checkpoint_says_whether_its_weights_are_averaged(tmp_path, extra, weights):
    state = tiny_autoencoder().state_dict()
    torch.save({'state_dict': state, 'meta': {'epoch': 2}, 'optimizer': {}, **extra}, tmp_path / 'epoch_2.pth')
    again, meta = load_file(tmp_path / 'epoch_2.pth')
    assert_equal_states(again, state)
    assert meta == {'epoch': 2, 'weights': weights}


class Malicious:
    """Creates a file when unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize('zipped', [True, False])
def test_a_checkpoint_that_would_run_code_is_refused(tmp_path, zipped):
    path = tmp_path / 'evil.pth'
    content = {'state_dict': {}, 'payload': Malicious(tmp_path / 'pwned')}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r'evil\.pth: refused, because it holds more than tensors'):
        load_file(path)
    assert not (tmp_path / 'pwned').exists()


@pytest.mark.parametrize(
    ('name', 'content', 'reason'),
    [
        ('empty.pth', b'', 'no readable checkpoint'),
        ('page.pth', b'<html>404</html>', 'not a checkpoint'),
        ('pointer.pth', b'version https://git-lfs.github.com/spec/v1\n', 'not a checkpoint'),
        ('empty.safetensors', b'', r'not a readable \.safetensors file'),
        ('page.safetensors', b'<html>404</html>', r'not a readable \.safetensors file'),
    ],
)
def test_files_that_are_no_checkpoints(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf'{re.escape(name)}: {reason}'):
        load_file(tmp_path / name)


@pytest.mark.parametrize('name', ['weights.pth', 'weights.safetensors'])
def test_truncated_files_are_refused(tmp_path, name):
    save_file(tiny_classifier().state_dict(), tmp_path / name, {})
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=rf'{re.escape(name)}: '):
        load_file(tmp_path / name)


def test_a_missing_file_and_a_file_without_tensors(tmp_path):
    with pytest.raises(ValueError, match=r'nowhere\.pth: no such checkpoint file'):
        load_file(tmp_path / 'nowhere.pth')
    torch.save({'epoch': 3}, tmp_path / 'numbers.pth')
    with pytest.raises(ValueError, match=r'numbers\.pth: holds no tensors by name'):
        load_file(tmp_path / 'numbers.pth')
    torch.save([torch.zeros(1)], tmp_path / 'list.pth')
    with pytest.raises(ValueError, match=r'list\.pth: holds a list, expected a dict'):
        load_file(tmp_path / 'list.pth')
    with pytest.raises(ValueError, match=r'the folder .*absent does not exist'):
        save_file({}, tmp_path / 'absent' / 'x.pth', {})


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


def test_an_address_is_downloaded_once(tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'cache'))
    state = tiny_classifier().state_dict()
    save_file(state, tmp_path / 'served.pth', {})
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), partial(QuietHandler, directory=tmp_path))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f'http://127.0.0.1:{server.server_port}'
    try:
        assert_equal_states(load_file(f'{address}/served.pth')[0], state)
        with pytest.raises(ValueError, match=r'absent\.pth: cannot be downloaded \(HTTP Error 404'):
            load_file(f'{address}/absent.pth')
    finally:
        server.shutdown()
        server.server_close()
    assert_equal_states(load_file(f'{address}/served.pth')[0], state)  # from the cache


# ---------------------------------------------------------------------------------------------------------------------
# Into models


@pytest.fixture
def released_file(tmp_path):
    """Save a tiny model's weights in the released layout; give file and model."""
    model = randomised(tiny_autoencoder())
    torch.save(released_twin(model), tmp_path / 'released.torch')
    return tmp_path / 'released.torch', model


def test_pretraining_continues_from_released_weights(released_file):
    path, source = released_file
    model = tiny_autoencoder()
    report = load_weights(model, path)
    assert_equal_states(model.state_dict(), source.state_dict())
    assert report.source == 'omnimae'
    assert (report.left, report.initialised) == ((), ())


def test_a_classifier_takes_the_backbone_and_reports_the_rest(released_file):
    path, source = released_file
    model = tiny_classifier()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    report = load_weights(model, path)
    after, pretrained = model.state_dict(), source.state_dict()
    assert report.initialised == ('norm.weight', 'norm.bias', 'head.weight', 'head.bias')
    assert all(torch.equal(after[key], before[key]) for key in report.initialised)
    assert set(report.loaded) == {key for key in pretrained if re.match(r'backbone\.(?!norm)', key)}
    assert all(torch.equal(after[key], pretrained[key]) for key in report.loaded)
    assert set(report.left) == set(pretrained) - set(report.loaded)
    assert 'freshly initialised 4 tensors (norm 2, head 2)' in str(report)
    assert 'backbone.norm 2' in str(report)


def test_a_classifier_takes_a_fitting_head_and_leaves_another(tmp_path):
    source = randomised(tiny_classifier(num_classes=5))
    save_file(source.state_dict(), tmp_path / 'ft.safetensors', {})
    same, other = tiny_classifier(num_classes=5), tiny_classifier(num_classes=3)
    assert load_weights(same, tmp_path / 'ft.safetensors').left == ()
    assert_equal_states(same.state_dict(), source.state_dict())
    report = load_weights(other, tmp_path / 'ft.safetensors')
    assert set(report.left) == set(report.initialised) == {'head.weight', 'head.bias'}
    assert torch.equal(other.norm.weight, source.norm.weight)


def test_released_classifier_keeps_its_norm_and_head(tmp_path):
    source = randomised(tiny_classifier())
    torch.save(export(source.state_dict()), tmp_path / 'ft.torch')
    model = tiny_classifier()
    load_weights(model, tmp_path / 'ft.torch')
    assert_equal_states(model.state_dict(), source.state_dict())


def test_half_precision_files_are_loaded_at_the_precision_of_the_model(tmp_path):
    source = randomised(tiny_autoencoder())
    save_file({key: value.bfloat16() for key, value in source.state_dict().items()}, tmp_path / 'half.pth', {})
    model = tiny_autoencoder()
    load_weights(model, tmp_path / 'half.pth')
    assert model.head.pred.weight.dtype == torch.float32
    assert torch.equal(model.head.pred.weight, source.head.pred.weight.bfloat16().float())


@pytest.mark.parametrize(
    ('model', 'message'),
    [
        (
            dict(dim=64),
            r'released\.torch does not fit the model\. backbone\.pos_embed is \(1, 32, 48\) in the file and '
            r'\(1, 32, 64\) in the model \(32 tensors differ in size\)\. The file has embed_dim=48, depth=2, '
            r'patch_size=\(2, 8, 8\), head\.embed_dim=32, head\.depth=1; the model has embed_dim=64, .*Choose',
        ),
        (
            dict(depth=3),
            r'The file lacks backbone\.blocks\.2\.norm1\.weight, .* and 4 more\. The file has embed_dim=48, depth=2, '
            r'.*the model has embed_dim=48, depth=3',
        ),
        (
            dict(depth=1),
            r'The model has no place for backbone\.blocks\.1\.norm1\.weight.*Choose the model of that size',
        ),
        (
            dict(clip_size=(8, 32, 32)),
            r'pos_embed is \(1, 32, 48\) in the file and \(1, 64, 48\) in the model.*Set clip_size .*\(32 tokens\)',
        ),
        (
            dict(qkv_bias=True),
            r'The file lacks head\.blocks\.0\.attn\.qkv\.bias\. Set head\.qkv_bias=False',
        ),
        (
            dict(per_modality=True),
            r'holds one shared decoder \(head\), the model has one decoder per modality \(head\.image, head\.video\)',
        ),
    ],
)
def test_a_checkpoint_of_another_model_is_one_clear_error(released_file, model, message):
    with pytest.raises(ValueError, match=message):
        load_weights(tiny_autoencoder(**model), released_file[0])


def test_decoders_per_modality(tmp_path):
    source = randomised(tiny_autoencoder(per_modality=True))
    path = tmp_path / 'two.safetensors'
    save_file(source.state_dict(), path, {})
    same = tiny_autoencoder(per_modality=True)
    load_weights(same, path)
    assert_equal_states(same.state_dict(), source.state_dict())
    with pytest.raises(ValueError, match=r'per modality \(head\.image, head\.video\), the model has one shared'):
        load_weights(tiny_autoencoder(), path)
    assert len(load_weights(tiny_classifier(), path).initialised) == 4


def test_a_classifier_of_another_width_is_refused(released_file):
    with pytest.raises(ValueError, match=r'file has embed_dim=48.*the model has embed_dim=64.*Choose'):
        load_weights(tiny_classifier(dim=64), released_file[0])


def test_wrong_kinds_of_checkpoint_are_refused(tmp_path, released_file):
    save_file(tiny_classifier().state_dict(), tmp_path / 'ft.pth', {})
    with pytest.raises(ValueError, match=r'ft\.pth: holds a classifier, which has no decoder'):
        load_weights(tiny_autoencoder(), tmp_path / 'ft.pth')
    torch.save({'conv1.weight': torch.zeros(1)}, tmp_path / 'resnet.pth')
    with pytest.raises(ValueError, match=r'resnet\.pth: The layout of this state dict is unknown'):
        load_weights(tiny_autoencoder(), tmp_path / 'resnet.pth')
    with pytest.raises(ValueError, match=r'fills a model, not a SpatioTemporalViT\. Move init_cfg up'):
        load_weights(tiny_autoencoder().backbone, released_file[0])


def test_init_cfg_loads_a_checkpoint_last(released_file):
    path, source = released_file
    init_cfg = dict(type='Checkpoint', checkpoint=str(path))
    model = tiny_autoencoder(init_cfg=init_cfg)
    model.init_weights()
    assert_equal_states(model.state_dict(), source.state_dict())
    # MMEngine would initialise the child after the parent and so overwrite what was loaded
    classifier = tiny_classifier(init_cfg=init_cfg, backbone_init=dict(type='Constant', layer='Linear', val=3.0))
    classifier.init_weights()
    assert torch.equal(classifier.backbone.blocks[0].mlp.fc1.weight, source.backbone.blocks[0].mlp.fc1.weight)
