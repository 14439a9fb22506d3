"""Coverage-guided fuzzing; by hand, not in the test run.

pip install atheris && python tests/coverage_fuzz.py TARGET [-max_total_time=60 and other options of libFuzzer]

* list, classes, video, image, checkpoint, safetensors: bytes that libFuzzer makes up go into a file and that file to
  the reader, which may refuse it with a ValueError and nothing else.
* frames, clips, masks, sampler, converter: they make the examples of a property that the tests check.

A crash leaves its bytes in ``crash-...``.
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
    import test_fuzz
    import test_samplers

    from omnimae.checkpoint import load_file
    from omnimae.data.annotations import read_classes, read_list
    from omnimae.data.media import open_video
    from omnimae.data.media.images import read_image

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


# name: a test whose examples hypothesis draws
PROPERTIES = {
    'frames': test_fuzz.test_frames_are_those_of_the_clip_in_order,
    'clips': test_fuzz.test_clips_lie_within_the_video,
    'masks': test_fuzz.test_masks_split_any_grid_or_say_why_not,
    'sampler': test_samplers.test_samples_of_a_step_do_not_depend_on_the_number_of_ranks,
    'converter': test_fuzz.test_a_foreign_file_is_loaded_or_refused,
}


def reading(target: str) -> Callable[[bytes], object]:
    """What to do with the bytes that go to a reader."""
    ending, reader = TARGETS[target]
    path = FOLDER / f'file.{ending}'

    def attempt(data: bytes) -> None:
        path.write_bytes(data)
        with contextlib.suppress(ValueError):
            reader(str(path))

    return attempt


def main() -> None:
    """Fuzz one target."""
    target = sys.argv.pop(1)
    warnings.simplefilter('ignore')
    attempt = PROPERTIES[target].hypothesis.fuzz_one_input if target in PROPERTIES else reading(target)
    atheris.Setup(sys.argv, attempt)
    atheris.Fuzz()


if __name__ == '__main__':
    main()
