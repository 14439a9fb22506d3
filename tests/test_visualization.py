"""Pictures of reconstructions, checked number by number."""

from __future__ import annotations

import av
import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope
from PIL import Image, ImageSequence

from omnimae.registry import MODELS
from omnimae.structures import Masks
from omnimae.visualization.reconstructions import HIDDEN_GREY, animation, frame_strip, image_grid, reconstruct
from omnimae.visualization.sheets import MARGIN, Row, sheet, write_gif, write_mp4

CLIP_SIZES = {'image': (1, 16, 24), 'video': (4, 16, 24)}


@pytest.fixture(autouse=True)
def _scope():
    with DefaultScope.overwrite_default_scope('omnimae'):
        yield


def build(normalize: str | None = 'channel', per_modality: bool = False):
    size = dict(embed_dim=16, depth=1, num_heads=2)
    head = dict(type='MAEHead', **size, target=dict(type='PixelTarget', normalize=normalize))
    return MODELS.build(
        dict(
            type='MaskedAutoencoder',
            backbone=dict(type='SpatioTemporalViT', **size, patch_size=(2, 8, 8), clip_size=(4, 16, 24)),
            head=dict(image=head, video=head) if per_modality else head,
            mask_generator=dict.fromkeys(CLIP_SIZES, dict(type='RandomMasking', ratio=0.5)),
        )
    )


def random_clip(modality: str) -> torch.Tensor:
    """Every byte occurs, so that no value is lost in rounding."""
    frames, height, width = CLIP_SIZES[modality]
    values = torch.arange(3 * frames * height * width) % 256
    order = torch.randperm(len(values), generator=torch.Generator().manual_seed(0))
    return values[order].view(3, frames, height, width).to(torch.uint8)


def as_frames(clip: torch.Tensor) -> np.ndarray:
    return clip.permute(1, 2, 3, 0).numpy()


def hidden_pixels(hidden: torch.Tensor, frames: int) -> np.ndarray:
    """(t, h, w) tokens -> (T, H, W) pixels, for patches of (2, 8, 8)."""
    repeats = (min(frames, 2), 8, 8)
    return np.kron(hidden.numpy(), np.ones(repeats, dtype=bool))


def predict_truth(model, monkeypatch, masks: Masks, change=lambda target: target):
    """Let the model predict its very targets, or a change of them."""

    def predict(clip, modality, given):
        assert given is masks
        patches, _ = model.backbone.patchify(clip)
        pixels = patches[0, masks.decode[0]] / 255
        repeats = 2 // clip.shape[2] or 1
        target = model.head.target(pixels, repeats).repeat(1, repeats)
        return [dict(patches=change(target), decode=masks.decode[0], visible=masks.visible[0], loss=torch.tensor(0.0))]

    monkeypatch.setattr(model, 'predict', predict)


HIDDEN = {
    'image': torch.tensor([[[1, 0, 1], [0, 1, 0]]], dtype=torch.bool),
    'video': torch.tensor([[[1, 1, 1], [0, 1, 1]], [[1, 0, 1], [1, 1, 0]]], dtype=torch.bool),
}


@pytest.mark.parametrize('modality', CLIP_SIZES)
@pytest.mark.parametrize('normalize', ['channel', None])
def test_visible_patches_are_the_originals_and_hidden_ones_are_not(modality, normalize):
    clip, hidden = random_clip(modality), HIDDEN[modality]
    result = reconstruct(build(normalize), clip, modality, Masks.from_hidden(hidden[None]))
    original, pixels = as_frames(clip), hidden_pixels(hidden, clip.shape[1])
    np.testing.assert_array_equal(result.original, original)
    np.testing.assert_array_equal(result.reconstruction[~pixels], original[~pixels])
    np.testing.assert_array_equal(result.masked[~pixels], original[~pixels])
    assert (result.masked[pixels] == HIDDEN_GREY).all()
    assert (result.reconstruction[pixels] != original[pixels]).mean() > 0.9


@pytest.mark.parametrize('modality', CLIP_SIZES)
@pytest.mark.parametrize('normalize', ['channel', None])
def test_a_perfect_prediction_gives_back_the_original(modality, normalize, monkeypatch):
    model, clip, masks = build(normalize), random_clip(modality), Masks.from_hidden(HIDDEN[modality][None])
    predict_truth(model, monkeypatch, masks)
    np.testing.assert_array_equal(reconstruct(model, clip, modality, masks).reconstruction, as_frames(clip))


def test_a_flat_prediction_gives_the_mean_colour_of_the_true_patch(monkeypatch):
    model, clip, masks = build(), random_clip('image'), Masks.from_hidden(HIDDEN['image'][None])
    predict_truth(model, monkeypatch, masks, torch.zeros_like)
    patch = as_frames(clip)[0, :8, :8]
    picture = reconstruct(model, clip, 'image', masks).reconstruction[0, :8, :8]
    np.testing.assert_allclose(picture, np.broadcast_to(patch.mean((0, 1)), patch.shape), atol=1)


def test_the_picture_of_an_image_is_the_mean_of_its_two_predicted_frames(monkeypatch):
    model, masks = build(None), Masks.from_hidden(HIDDEN['image'][None])
    clip = torch.zeros(3, 1, 16, 24, dtype=torch.uint8)
    frame = torch.linspace(0, 0.4, 192).expand(3, -1)
    predict_truth(model, monkeypatch, masks, lambda target: torch.cat([frame, frame + 0.2], dim=1))
    picture = reconstruct(model, clip, 'image', masks).reconstruction[0, :8, :8]
    np.testing.assert_array_equal(picture.reshape(-1), ((frame[0] + 0.1) * 255).round().numpy())


def test_hidden_patches_that_are_not_decoded_stay_grey():
    visible, decode = torch.tensor([[0, 3]]), torch.tensor([[1, 3]])  # decodes a visible patch too
    clip = random_clip('image')
    result = reconstruct(build(), clip, 'image', Masks(visible, decode))
    assert result.caption.endswith('Of 4 hidden patches 1 are predicted, the others stay grey.')
    picture = result.reconstruction[0]
    original = as_frames(clip)[0]
    np.testing.assert_array_equal(picture[8:, :8], original[8:, :8])
    assert (picture[:8, 16:] == HIDDEN_GREY).all()
    assert (picture[:8, 8:16] != HIDDEN_GREY).mean() > 0.9


def test_captions_say_what_is_shown():
    masks = Masks.from_hidden(HIDDEN['video'][None])
    caption = reconstruct(build(), random_clip('video'), 'video', masks).caption
    assert caption.startswith('video, 75.0 % hidden: 3 of 12 patches visible, loss ')
    assert caption.endswith('mean and contrast of each hidden one are those of the original.')
    plain = reconstruct(build(None), random_clip('video'), 'video', masks).caption
    assert 'predicted as they are' in plain


def test_decoders_per_modality_and_the_mode_of_the_model():
    model = build(per_modality=True).train()
    model.head['image'].target.normalize = None
    assert 'predicted as they are' in reconstruct(model, random_clip('image'), 'image').caption
    assert 'contrast' in reconstruct(model, random_clip('video'), 'video').caption
    assert model.training


def test_clips_that_are_no_pictures_are_refused():
    with pytest.raises(ValueError, match=r'uint8 clip of shape \(3, T, H, W\), got torch\.float32 \(3, 1, 16, 24\)'):
        reconstruct(build(), random_clip('image').float(), 'image')
    with pytest.raises(ValueError, match=r'cannot be cut into patches of 2x8x8'):
        reconstruct(build(), torch.zeros(3, 1, 20, 20, dtype=torch.uint8), 'image')


# ---------------------------------------------------------------------------------------------------------------------
# Pages


def boxes_of_colour(page: Image.Image, colour: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """Find the box around all pixels of one colour: left, top, right, bottom."""
    rows, columns = np.nonzero((np.asarray(page) == colour).all(-1))
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def test_a_sheet_enlarges_small_panels_and_keeps_their_pixels():
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
    panels = [np.full((40, 60, 3), colour, np.uint8) for colour in colours]
    page = sheet('title', [Row(panels, label='row', caption='words ' * 50)], ['a', 'b', 'c'])
    left, top, right, bottom = boxes_of_colour(page, colours[0])
    assert (right - left, bottom - top) == (240, 160)  # four times
    for i, colour in enumerate(colours):
        assert boxes_of_colour(page, colour) == (left + i * (240 + MARGIN), top, right + i * (240 + MARGIN), bottom)
    assert right + 2 * (240 + MARGIN) + MARGIN == page.width
    assert (np.asarray(page)[bottom + MARGIN :] < 128).any()  # the caption


def test_long_words_do_not_leave_the_page():
    panel = np.full((200, 200, 3), 255, np.uint8)
    page = np.asarray(sheet('title', [Row([panel], caption='x' * 400)]))
    assert page.shape[0] > 200 + 10 * 14
    assert (page[:, -MARGIN:] == 255).all()


def test_pages_of_images_and_clips_show_the_three_panels():
    image = reconstruct(build(), random_clip('image'), 'image')
    clip = reconstruct(build(), random_clip('video'), 'video')
    scaled = image.reconstruction[0].repeat(10, 0).repeat(10, 1)  # 16x24 pixels to 160x240
    page = np.asarray(image_grid([('one', image), ('two', image)], 'title'))
    assert contains(page, scaled, MARGIN + 2 * (240 + MARGIN))
    strip = np.asarray(frame_strip(clip, 'three', 'title'))
    for panels in clip[:3]:
        last = panels[3].repeat(10, 0).repeat(10, 1)
        assert contains(strip, last, strip.shape[1] - MARGIN - 240)
    pages = animation(clip, 'four', 'title')
    assert len(pages) == 4
    assert contains(np.asarray(pages[2]), clip.masked[2].repeat(10, 0).repeat(10, 1), MARGIN + 240 + MARGIN)


def contains(page: np.ndarray, panel: np.ndarray, x: int) -> bool:
    height, width = panel.shape[:2]
    rows = np.flatnonzero((page[:, x : x + width] == panel[0]).all((1, 2)))
    return any(np.array_equal(page[y : y + height, x : x + width], panel) for y in rows)


def test_gif_and_mp4_play_every_page_at_the_right_speed(tmp_path):
    pages = [Image.new('RGB', (65, 47), (40 * i, 90, 90)) for i in range(5)]  # odd sides
    write_gif(tmp_path / 'clip.gif', pages, 5)
    with Image.open(tmp_path / 'clip.gif') as gif:
        frames = [(x.info['duration'], x.convert('RGB').getpixel((9, 9))) for x in ImageSequence.Iterator(gif)]
    assert frames == [(200, (40 * i, 90, 90)) for i in range(5)]
    write_mp4(tmp_path / 'clip.mp4', pages, 16 / 2.7)
    with av.open(str(tmp_path / 'clip.mp4')) as container:
        stream = container.streams.video[0]
        reds = [frame.to_ndarray(format='rgb24')[9, 9, 0] for frame in container.decode(stream)]
        assert (stream.codec_context.width, stream.codec_context.height) == (64, 46)
        assert float(stream.average_rate) == pytest.approx(16 / 2.7, rel=1e-3)
    np.testing.assert_allclose(reds, [0, 40, 80, 120, 160], atol=6)
