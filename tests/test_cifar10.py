"""CIFAR-10's archive as JPEG files."""

from __future__ import annotations

import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import CIFAR10

from omnimae.synthetic.cifar10 import make_cifar10

NAMES = ['cat', 'ship']


@pytest.fixture
def archive(tmp_path, monkeypatch) -> Path:
    """Two batches of the published layout with grey pictures; those of ships are the brighter ones."""
    folder = tmp_path / 'archive' / CIFAR10.base_folder
    folder.mkdir(parents=True)
    labels = [1, 0, 0, 1, 1]
    pixels = np.repeat(np.array([200, 10, 20, 210, 220], np.uint8)[:, None], 3072, 1)
    for name in ('first', 'second', 'test'):
        (folder / name).write_bytes(pickle.dumps({'data': pixels, 'labels': labels}))
    (folder / 'meta').write_bytes(pickle.dumps({'label_names': NAMES}))
    monkeypatch.setattr(CIFAR10, 'train_list', [['first', None], ['second', None]])
    monkeypatch.setattr(CIFAR10, 'test_list', [['test', None]])
    monkeypatch.setattr(CIFAR10, 'meta', {'filename': 'meta', 'key': 'label_names', 'md5': None})
    return tmp_path / 'archive'


def test_every_image_lies_in_the_folder_of_its_class(archive, tmp_path):
    root = tmp_path / 'cifar10'
    assert make_cifar10(root, archive) == 15
    files = sorted(root.rglob('*.jpg'))
    assert Counter(str(path.parent.relative_to(root)) for path in files) == {
        'train/cat': 4, 'train/ship': 6, 'test/cat': 2, 'test/ship': 3,
    }  # fmt: skip
    assert [path.name for path in sorted((root / 'test' / 'ship').iterdir())] == ['0000.jpg', '0001.jpg', '0002.jpg']
    for path in files:
        pixels = np.asarray(Image.open(path))
        assert pixels.shape == (32, 32, 3)
        assert (pixels.mean() > 100) == (path.parent.name == 'ship')


def test_what_is_there_stays(archive, tmp_path):
    (tmp_path / 'cifar10').mkdir()
    with pytest.raises(ValueError, match=r'cifar10 exists\. Remove it or choose another root'):
        make_cifar10(tmp_path / 'cifar10', archive)


def test_another_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r'does not hold cifar-10-batches-py as it was published\. Unpack'):
        make_cifar10(tmp_path / 'cifar10', tmp_path)
    assert not list(tmp_path.iterdir())
