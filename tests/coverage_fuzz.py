"""Coverage-guided fuzzing of everything that reads files of strangers; by hand, not in the test run.

pip install atheris && python tests/coverage_fuzz.py TARGET [-max_total_time=60 and other options of libFuzzer]

Targets: list, classes, video, image, checkpoint. Bytes that libFuzzer makes up go into a file and that file to the
reader, which may refuse it with a ValueError and nothing else. A crash leaves its bytes in ``crash-...``.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports(include=['omnimae']):
    from omnimae.checkpoint import load_file
    from omnimae.data.annotations import read_classes, read_list
    from omnimae.data.datasets import read_image
    from omnimae.data.video import open_video

FOLDER = Path(tempfile.mkdtemp())


def read_video(path: str) -> None:
    """Open a video and read one clip of it."""
    with open_video(path) as video:
        video.read(0.0, 1.0, 2)


# name: (ending of the file, reader)
TARGETS: dict[str, tuple[str, Callable[[str], object]]] = {
    'list': ('txt', lambda path: read_list(path, ['.mp4', '.jpg'], classes=['cat', 'a dog'])),
    'classes': ('txt', read_classes),
    'video': ('mp4', read_video),
    'image': ('jpg', read_image),
    'checkpoint': ('pth', load_file),
    'safetensors': ('safetensors', load_file),
}


def main() -> None:
    """Fuzz one target."""
    ending, reader = TARGETS[sys.argv.pop(1)]
    path = FOLDER / f'file.{ending}'
    warnings.simplefilter('ignore')

    def attempt(data: bytes) -> None:
        path.write_bytes(data)
        with contextlib.suppress(ValueError):
            reader(str(path))

    atheris.Setup(sys.argv, attempt)
    atheris.Fuzz()


if __name__ == '__main__':
    main()
