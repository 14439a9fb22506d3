"""Files of named arrays (.npz)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from zipfile import BadZipFile, ZipFile

import numpy as np


def write_npz(path: str | Path, arrays: Mapping[str, np.ndarray], *, compressed: bool = False) -> None:
    """Write named arrays to a file of exactly this name. Its folder is created."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with open(path, 'wb') as file:  # NumPy would add .npz to a path that ends in something else
        save: Callable[..., None] = np.savez_compressed if compressed else np.savez
        save(file, **arrays)


def join_npz(path: str | Path, files: Sequence[str | Path], keys: Sequence[str]) -> None:
    """Concatenate these arrays of several files into one file. One file at a time is in memory."""
    with ZipFile(path, 'w') as joined:
        for key in keys:
            parts = [(part.dtype, part.shape) for part in (read_npz(file, [key])[key] for file in files)]
            dtype = np.result_type(*(kind for kind, _ in parts))
            shape = (sum(size[0] for _, size in parts), *parts[0][1][1:])
            about = dict(descr=np.lib.format.dtype_to_descr(dtype), fortran_order=False, shape=shape)
            with joined.open(f'{key}.npy', 'w', force_zip64=True) as stream:
                np.lib.format.write_array_header_1_0(stream, about)
                for file in files:
                    stream.write(read_npz(file, [key])[key].astype(dtype).tobytes())


def read_npz(path: str | Path, keys: Sequence[str], optional: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """Read the arrays of these names, and those of ``optional`` if the file has them."""
    try:
        with np.load(path) as file:
            return {key: file[key] for key in (*keys, *(key for key in optional if key in file))}
    except FileNotFoundError:
        raise ValueError(f'{path} does not exist.') from None
    except (KeyError, ValueError, OSError, TypeError, AttributeError, EOFError, BadZipFile) as error:  # cut off, .npy
        raise ValueError(f'{path} does not hold {", ".join(keys)} ({error}). Give a file of our tools.') from None
