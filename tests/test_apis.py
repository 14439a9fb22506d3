"""From Python: names of configs and weights, the scores of tools/test.py, mixed inputs, and what cannot be read."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_run import CLASSIFY, PRETRAIN, build_runner, write_config, write_data

import omnimae
from omnimae.apis import (
    ZOO,
    ClassificationInferencer,
    FeatureExtractor,
    Guess,
    Pipeline,
    Reconstructor,
    find_config,
    get_model,
    list_inputs,
    training_sampling,
)
from omnimae.checkpoint import load_weights, save_file
from omnimae.config import load_config
from omnimae.data.datasets import VideoDataset
from omnimae.data.media.frames import ClipSampling
from omnimae.data.media.images import read_image
from omnimae.inputs import output_names
from omnimae.registry import MODELS

# The videos of the tiny data, two clips of three crops each, tested beside the pictures.
MOVIES = """
crop = [dict(type='ResizeShort', size=32), dict(type='ThreeCrop', size=32)]
movies = dict(
    type='VideoDataset',
    root='{data}/movies',
    ann_file='{data}/movies.txt',
    clip_seconds=0.5,
    num_frames=4,
    num_clips=2,
    transforms=crop,
)
test_dataloader['dataset']['sources']['movies'] = movies
"""


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> Path:
    folder = write_data(tmp_path_factory.mktemp('data'), num_pictures=6, num_movies=3)
    (folder / 'movies.txt').write_text(''.join(f'{index}.mp4 {index % 2}\n' for index in range(3)))
    return folder


@pytest.fixture(scope='module')
def config(data) -> Path:
    return write_config(data / 'classify.py', CLASSIFY, data, MOVIES.replace('{data}', str(data)))


@pytest.fixture(scope='module')
def checkpoint(data, config) -> Path:
    torch.manual_seed(0)
    path = data / 'classifier.safetensors'
    save_file(MODELS.build(load_config(config).model).state_dict(), path, {})
    return path


def infer(config, checkpoint, **kwargs) -> ClassificationInferencer:
    return ClassificationInferencer(config, checkpoint, progress=False, **kwargs)


def test_scores_are_those_of_the_test_loop(data, config, checkpoint, tmp_path):
    runner = build_runner(config, tmp_path, {'test_evaluator.out_file': str(tmp_path / 'scores.npz')})
    load_weights(runner.model, checkpoint)
    runner.test()
    expected = np.load(tmp_path / 'scores.npz')
    # folders and files, images and videos mixed; batches of 4 make some of them wait for their like
    inputs = [data / 'movies' / '2.mp4', data / 'pictures', data / 'movies' / '0.mp4', str(data / 'movies' / '1.mp4')]
    results = infer(config, checkpoint, batch_size=4, num_workers=2)(inputs)
    order = ['2.mp4', *(f'{"ab"[i % 2]}/{i}.png' for i in (0, 2, 4, 1, 3, 5)), '0.mp4', '1.mp4']
    folders = {'image': data / 'pictures', 'video': data / 'movies'}
    assert [str(Path(x.input).relative_to(folders[x.modality])) for x in results] == order
    rows = dict(zip(expected['ids'].tolist(), expected['scores'], strict=True))
    for name, result in zip(order, results, strict=True):
        np.testing.assert_allclose(result.scores, rows[name], rtol=0, atol=1e-6)
        assert result.error is None


def test_views_are_averaged_as_the_config_tests_them(data, config, checkpoint, tmp_path):
    """By their probabilities: what VideoMAE's and MAE-ST's releases do."""
    several = '\ntest_evaluator = [dict(test_evaluator, softmax=True)]\n'
    softened = write_config(data / 'softmax.py', config.read_text(), data, several)
    runner = build_runner(softened, tmp_path, {'test_evaluator.0.out_file': str(tmp_path / 'scores.npz')})
    load_weights(runner.model, checkpoint)
    runner.test()
    expected = np.load(tmp_path / 'scores.npz')
    row = expected['ids'].tolist().index('1.mp4')
    [result] = infer(softened, checkpoint)(data / 'movies' / '1.mp4')
    found = {guess.label: guess.probability for guess in result.guesses}
    np.testing.assert_allclose([found[0], found[1]], expected['probabilities'][row], rtol=1e-5)
    assert not np.allclose(result.scores, expected['scores'][row], atol=1e-6)


def test_guesses_are_ranked_and_named(config, checkpoint, data):
    picture = data / 'pictures' / 'a' / '0.png'
    [result] = infer(config, checkpoint, classes=['cat', 'dog'])(picture)
    first, second = result.guesses
    assert {first.name, second.name} == {'cat', 'dog'}
    assert first.label == result.scores.argmax()
    assert first.name == ('cat', 'dog')[first.label]
    assert first.probability > second.probability
    assert first.probability + second.probability == pytest.approx(1)
    odds = np.exp(result.scores[first.label] - result.scores[second.label])
    assert first.probability / second.probability == pytest.approx(odds, rel=1e-5)
    [unnamed] = infer(config, checkpoint, topk=1)(picture)
    assert unnamed.guesses == (Guess(first.label, None, first.probability),)
    with pytest.raises(ValueError, match=r'classes has 3 names, and the model num_classes=2'):
        infer(config, checkpoint, classes=['a', 'b', 'c'])


def test_scores_that_are_no_numbers_are_refused(config, checkpoint, data):
    classify = infer(config, checkpoint)
    torch.nn.init.constant_(classify.model.head.bias, torch.nan)
    with pytest.raises(ValueError, match=r'scores of .*0\.png are NaN\. Take a checkpoint from before the training'):
        classify(data / 'pictures' / 'a' / '0.png')


def test_class_names_come_from_checkpoint_or_config(config, checkpoint, data, tmp_path):
    picture = data / 'pictures' / 'b' / '1.png'
    state = MODELS.build(load_config(config).model).state_dict()
    meta = {'epoch': 1, 'dataset_meta': {'movies': None, 'pictures': ('a', 'b')}}
    torch.save({'state_dict': state, 'meta': meta}, tmp_path / 'epoch_1.pth')
    assert infer(config, tmp_path / 'epoch_1.pth').classes == ('a', 'b')
    save_file(state, tmp_path / 'exported.safetensors', {'weights': 'raw', 'classes': '["cat", "dog"]'})
    assert infer(config, tmp_path / 'exported.safetensors').classes == ('cat', 'dog')
    named = write_config(data / 'named.py', config.read_text(), data, "\nmovies['classes'] = ['left', 'right']\n")
    assert infer(named, checkpoint).classes == ('left', 'right')
    (tmp_path / 'names.txt').write_text('up\ndown\n')
    listed = write_config(
        data / 'listed.py', config.read_text(), data, f"\nmovies['classes'] = '{tmp_path}/names.txt'\n"
    )
    [result] = infer(listed, checkpoint)(picture)
    assert result.guesses[0].name == ('up', 'down')[result.guesses[0].label]


@pytest.mark.parametrize('more', [dict(sampling='sparse'), dict(to_end=True), dict(sampling='spread', stride=2)])
def test_clips_are_taken_as_in_tests(data, more):
    source = dict(clip_seconds=0.5, num_frames=4, num_clips=2, transforms=[dict(type='CenterCrop', size=32)], **more)
    dataset = VideoDataset(root=str(data / 'movies'), ann_file=str(data / 'movies.txt'), **source)
    pipeline = Pipeline(source, 'video')
    assert torch.equal(pipeline(str(data / 'movies' / '1.mp4')), dataset[1]['clips']['rgb'][0])
    movie = np.random.default_rng(1).integers(0, 256, (8, 32, 32, 3), np.uint8)
    picked = [1, 3, 5, 7] if more.get('sampling') == 'sparse' else [0, 2, 4, 7]
    assert torch.equal(pipeline(movie), torch.from_numpy(movie[None, picked]).movedim(-1, 1))


def test_arrays_give_what_their_files_give(config, checkpoint, data):
    picture = data / 'pictures' / 'a' / '2.png'
    pixels = read_image(str(picture))[0]
    movie = np.random.default_rng(1).integers(0, 256, (7, 40, 36, 3), np.uint8)
    classify = infer(config, checkpoint)
    of_file, of_array, of_movie, of_frames = classify([picture, pixels, movie, movie[[0, 2, 4, 6]]])
    assert (of_array.input, of_array.modality) == ('inputs[1]', 'image')
    assert (of_movie.input, of_movie.modality) == ('inputs[2]', 'video')
    np.testing.assert_allclose(of_array.scores, of_file.scores, rtol=0, atol=1e-6)
    # 4 frames of 7 are floor(linspace(0, 6, 4)) = 0, 2, 4, 6
    np.testing.assert_allclose(of_movie.scores, of_frames.scores, rtol=0, atol=1e-6)
    assert classify(pixels)[0].input == 'inputs[0]'


def test_a_broken_file_costs_the_others_nothing(config, checkpoint, data, tmp_path):
    (tmp_path / 'broken.png').write_bytes(b'no picture')
    (tmp_path / 'broken.mp4').write_bytes(b'')
    good = data / 'pictures' / 'a' / '0.png'
    classify = infer(config, checkpoint)
    image, whole, video = classify([tmp_path / 'broken.png', good, tmp_path / 'broken.mp4'])
    assert image.error == 'not an image that Pillow reads'
    assert video.error
    assert [result.input for result in (image, video)] == [
        str(tmp_path / name) for name in ('broken.png', 'broken.mp4')
    ]
    assert (image.guesses, image.scores) == ((), None)
    np.testing.assert_allclose(whole.scores, classify(good)[0].scores, rtol=0, atol=1e-6)


def test_a_modality_without_test_data_is_cut_to_the_size_of_the_model(data, tmp_path, checkpoint):
    plain = write_config(tmp_path / 'pictures_only.py', CLASSIFY, data)
    classify = infer(plain, checkpoint)
    assert classify([data / 'movies'])[0].scores.shape == (2,)
    clip = classify.pipelines['video'](np.zeros((9, 50, 70, 3), np.uint8))
    assert clip.shape == (1, 3, 4, 32, 32)


def test_features_of_pretraining_and_classifier(config, checkpoint, data, tmp_path):
    pretrain = write_config(tmp_path / 'pretrain.py', PRETRAIN, data)
    torch.manual_seed(1)
    autoencoder = MODELS.build(load_config(pretrain).model).eval()
    save_file(autoencoder.state_dict(), tmp_path / 'pretrained.pth', {})
    inputs = [data / 'pictures' / 'a' / '0.png', data / 'movies' / '0.mp4']
    extract = FeatureExtractor(pretrain, tmp_path / 'pretrained.pth', progress=False)
    for result in extract(inputs):
        clip = extract.pipelines[result.modality](result.input)
        with torch.no_grad():
            tokens = autoencoder.backbone(autoencoder.data_preprocessor.normalize(clip))
        np.testing.assert_allclose(result.features, tokens.mean(1)[0].numpy(), rtol=0, atol=1e-6)
    # of a classifier: what its head sees, averaged over views
    classify, extract = infer(config, checkpoint), FeatureExtractor(config, checkpoint, progress=False)
    head = classify.model.head
    for features, scores in zip(extract(inputs), classify(inputs), strict=True):
        logits = head.weight.detach().numpy() @ features.features + head.bias.detach().numpy()
        np.testing.assert_allclose(logits, scores.scores, rtol=0, atol=1e-6)


def test_reconstructions_of_files_and_arrays(data, tmp_path):
    config = write_config(tmp_path / 'pretrain.py', PRETRAIN, data)
    torch.manual_seed(1)
    save_file(MODELS.build(load_config(config).model).state_dict(), tmp_path / 'weights.pth', {})
    (tmp_path / 'broken.png').write_bytes(b'no picture')
    picture, movie = data / 'pictures' / 'a' / '0.png', data / 'movies' / '0.mp4'
    reconstruct = Reconstructor(config, tmp_path / 'weights.pth', progress=False)
    inputs = [movie, tmp_path / 'broken.png', picture, read_image(str(picture))]
    of_movie, broken, of_picture, of_array = reconstruct(inputs)
    [video], [image], [same] = (x.reconstructions.values() for x in (of_movie, of_picture, of_array))
    assert [*of_picture.reconstructions] == ['0.png']
    assert (broken.reconstructions, broken.error) == ({}, 'not an image that Pillow reads')
    clip = reconstruct.pipelines['image'](str(picture))
    np.testing.assert_array_equal(image.original, clip[0].movedim(0, -1).numpy())
    np.testing.assert_array_equal(image.original, same.original)
    assert video.original.shape == (4, 32, 32, 3)
    [again] = reconstruct(picture)
    np.testing.assert_array_equal(again.reconstructions['0.png'].masked, image.masked)
    assert not np.array_equal(same.masked, image.masked)  # the mask follows from the name
    with pytest.raises(ValueError, match=r"model\.type='Classifier' reconstructs nothing"):
        Reconstructor(write_config(tmp_path / 'classify.py', CLASSIFY, data), data)


@pytest.mark.parametrize(
    ('name', 'expected'),
    [
        ('omnimae/vit-b_in1k-ssv2', ClipSampling('dense', 2.7, to_end=True)),
        ('videomae/vit-b_ssv2', ClipSampling('strided', stride=2, to_end=True)),
        ('mae/vit-b_in1k', ClipSampling(to_end=True)),
    ],
)
def test_reconstructions_take_clips_as_the_training_does(name, expected):
    assert training_sampling(load_config(name)) == expected


def test_results_come_in_order_and_as_soon_as_they_can(data, config, checkpoint):
    names = [data / 'pictures' / 'a' / f'{i}.png' for i in (0, 2)]
    inputs = [names[0], data / 'movies' / '0.mp4', names[1]]
    seen = []
    classify = infer(config, checkpoint, batch_size=1)
    compute = classify.compute
    classify.compute = lambda clip, items: seen.append(items[0].name) or compute(clip, items)
    for number, result in enumerate(classify.stream(inputs)):
        assert result.input == str(inputs[number]) == seen[-1]
    assert len(seen) == 3


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ('nowhere.jpg', r'nowhere\.jpg does not exist'),
        ('', r"'' does not exist"),
        ('https://x.org/a.jpg', r'https://x\.org/a\.jpg does not exist\. Download it first'),
        (None, r'inputs\[1\] is a NoneType\. Give paths, arrays'),
        (np.full((4, 4, 3), 2.0), r'inputs\[1\] is float64 of shape \(4, 4, 3\) from 2 to 2\. Floats must be'),
        (np.zeros((3, 8, 9), np.uint8), r'inputs\[1\] is uint8 of shape \(3, 8, 9\)'),
        (torch.zeros(3, 8, 3), r'inputs\[1\] is float32 of shape \(3, 8, 3\)|is uint8 of'),
        (Image.new('F', (8, 8)), r"inputs\[1\] is an image of PIL of mode 'F'"),
        ([np.zeros((4, 4), np.uint8), np.zeros((5, 4), np.uint8)], r'inputs\[1\] has frames of several sizes'),
        (np.zeros((0, 4, 4, 3), np.uint8), r'inputs\[1\] is uint8 of shape \(0, 4, 4, 3\)'),
        (__file__, r'test_apis\.py is neither image nor video\. Known are files that end in \.jpg'),
    ],
)
def test_inputs_that_cannot_be_meant(content, message, tmp_path):
    Image.new('RGB', (8, 8)).save(tmp_path / 'good.png')
    with pytest.raises(ValueError, match=message):
        list_inputs([tmp_path / 'good.png', content])


def test_pixels_of_other_libraries():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 9, 3), np.uint8)
    video, image = torch.from_numpy(pixels), torch.from_numpy(pixels[0])
    images = [Image.fromarray(pixels[0]), image, image.permute(2, 0, 1), image / 255, pixels[0] / 255]
    videos = [
        video,
        video.permute(0, 3, 1, 2),
        video.permute(3, 0, 1, 2) / 255,
        [*pixels],
        [*map(Image.fromarray, pixels)],
    ]
    items = list_inputs([*images, *videos])
    for item, expected in zip(items, [pixels[:1]] * len(images) + [pixels] * len(videos), strict=True):
        np.testing.assert_array_equal(item.content, expected, item.name)
    assert [item.modality for item in items] == ['image'] * len(images) + ['video'] * len(videos)


def test_grey_and_transparent_pixels():
    grey, clear = np.full((4, 6), 7, np.uint8), np.zeros((4, 6, 4), np.uint8)
    items = list_inputs([grey, grey[..., None], Image.fromarray(grey), clear, Image.fromarray(clear)])
    assert [(item.content.shape, *np.unique(item.content)) for item in items] == [((1, 4, 6, 3), 7)] * 3 + [
        ((1, 4, 6, 3), 255)
    ] * 2


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r'holds no file that ends in \.jpg'):
        list_inputs(tmp_path)


def test_models_by_name_path_and_config(config, checkpoint, monkeypatch):
    assert find_config('demo/finetune_images') == find_config('demo/finetune_images.py')
    for cfg in (config, str(config), load_config(config)):
        model = get_model(cfg, checkpoint, device='cpu')
        assert not model.training
        assert model.head.out_features == 2
    fresh = get_model('demo/finetune_images')  # whose own init_cfg names a checkpoint that is not here
    assert fresh.backbone.embed_dim == 96
    fresh.init_weights()  # what a Runner would do: it does not ask for that checkpoint either
    with pytest.raises(ValueError, match=r"'demo/finetune_image' is no file.*Did you mean 'demo/finetune_images'"):
        get_model('demo/finetune_image')
    monkeypatch.setitem(ZOO, 'tiny', ZOO['vitb_in1k_ft']._replace(config=str(config), url=str(checkpoint)))
    assert torch.equal(get_model('tiny').head.weight, model.head.weight)
    assert torch.equal(get_model(config, 'tiny').head.weight, model.head.weight)


def test_a_config_without_number_of_classes_has_those_of_the_checkpoint(config, checkpoint, data, tmp_path):
    own = write_config(tmp_path / 'own.py', config.read_text(), data, "\nmodel['num_classes'] = None\n")
    assert get_model(own, checkpoint, device='cpu').head.out_features == 2
    [result] = infer(own, checkpoint)(np.zeros((32, 32, 3), np.uint8))
    assert result.scores.shape == (2,)
    assert len(result.guesses) == 2
    with pytest.raises(ValueError, match=r'num_classes=None is filled in from the head.*checkpoint=None has none'):
        get_model(own)


def test_inference_needs_all_weights_and_a_classifier(config, checkpoint, data, tmp_path):
    with pytest.raises(ValueError, match=r'checkpoint=None: results of initial weights mean nothing'):
        infer(config, None)
    other = write_config(tmp_path / 'other.py', config.read_text(), data, "\nmodel['num_classes'] = 7\n")
    with pytest.raises(ValueError, match=r'has a head for 2 classes, and the model has num_classes=7'):
        infer(other, checkpoint)
    pretrain = write_config(tmp_path / 'pretrain.py', PRETRAIN, data)
    with pytest.raises(ValueError, match=r"model\.type='MaskedAutoencoder' classifies nothing"):
        infer(pretrain, checkpoint)


@pytest.mark.parametrize(
    ('inputs', 'names'),
    [
        (['in'], ['a/1.jpg', 'a/1.png', 'a/2', 'b/1']),
        (['in/a', 'in/b/1.mp4'], ['a/1.jpg', 'a/1.png', 'a/2', 'b/1']),
        (['in/a/1.png', 'in/a/2.jpg'], ['1', '2']),
        (['in/b/1.mp4'], ['1']),
        ([np.zeros((8, 8, 3), np.uint8)], ['inputs[0]']),
    ],
)
def test_outputs_keep_the_names_of_inputs(inputs, names, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for file in ('a/1.jpg', 'a/1.png', 'a/2.jpg', 'b/1.mp4'):
        (tmp_path / 'in' / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / 'in' / file).touch()
    assert [*output_names(inputs).values()] == names


def test_the_zoo_is_the_nine_released_files():
    names = {f'vit{size}_{kind}' for size in 'blh' for kind in ('pretrain', 'in1k_ft', 'ssv2_ft')}
    assert set(ZOO) == names
    table = (Path(__file__).parents[1] / 'docs' / 'zoo.md').read_text()
    for name, published in ZOO.items():
        assert published.url.endswith(f'/omnimae_ckpts/{name}.torch')
        assert find_config(published.config).is_file()
        assert f'`{name}`' in table
        assert f'`{published.config}`' in table


def test_predictions_of_a_run_are_a_table(data, config, checkpoint, tmp_path):
    run, broken = tmp_path / 'run', tmp_path / 'broken, \u00e4.png'
    run.mkdir()
    broken.write_bytes(b'no image')
    (run / 'config.py').write_text(f'_base_ = {str(config)!r}\n')
    with pytest.raises(ValueError, match='it has config.py, and no checkpoint. Give the --out of omnimae finetune'):
        omnimae.predict(broken, run)
    with pytest.raises(ValueError, match=r"x\.xlsx ends in '\.xlsx'\. Give a name that ends in \.csv or \.parquet"):
        omnimae.predict(broken, run, tmp_path / 'x.xlsx')
    shutil.copy(checkpoint, run / 'epoch_9_raw.safetensors')
    (run / 'epoch_10_raw.safetensors').write_bytes(b'not looked at')
    shutil.copy(checkpoint, run / 'best_accuracy_top1_epoch_2_raw.safetensors')
    table = omnimae.predict([data / 'pictures', broken], run, tmp_path / 'new' / 'table.csv', device='cpu')
    with table.open(newline='') as file:
        rows = [*csv.DictReader(file)]
    assert [*rows[0]] == ['input', 'class', 'score', 'class_2', 'score_2', 'error']  # two classes: no third to fifth
    best = [result.guesses[0] for result in infer(config, checkpoint)(data / 'pictures')]
    assert [(row['class'], row['score'], row['error']) for row in rows[:-1]] == [
        (str(guess.label), f'{guess.probability:.6f}', '') for guess in best
    ]
    assert rows[-1]['input'] == str(broken)
    assert not rows[-1]['class']
    assert rows[-1]['error'] == 'not an image that Pillow reads'
