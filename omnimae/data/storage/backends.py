"""Which backend reads an address: one of ours, or one of ``mmengine.fileio``.

Ours replace those of MMEngine, but never one that somebody else registered there. Importing this module does not change
MMEngine. A tool that calls `register_backends` gives our backends to MMEngine and to all that reads through it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from functools import cache
from importlib.util import find_spec
from typing import Any

from mmengine.fileio import BaseStorageBackend, FileClient, HTTPBackend, PetrelBackend, get_file_backend
from mmengine.fileio.backends import backends as theirs
from mmengine.fileio.backends import prefix_to_backends as theirs_by_prefix

from omnimae.registry import FUNCTIONS

BACKENDS: dict[str, type[BaseStorageBackend]] = {}
PREFIXES: dict[str, type[BaseStorageBackend]] = {}  # by prefix of the address
_instances: dict[str, BaseStorageBackend] = {}


class RangeBackend(BaseStorageBackend):
    """Reads parts of files, and so also whole ones.

    A subclass with a ``name`` is used for ``backend_args=dict(backend=name)`` and for addresses with its prefixes.
    """

    def __init_subclass__(cls, name: str | None = None, prefixes: Iterable[str] = ()) -> None:
        if name is not None:
            BACKENDS[name] = cls
            PREFIXES.update(dict.fromkeys(prefixes, cls))

    def get_range(self, filepath: str, start: int = 0, stop: int | None = None) -> bytes:
        """The bytes [start, stop) of a file, or fewer if it ends before."""
        raise NotImplementedError

    def get(self, filepath: str) -> bytes:
        """The whole file."""
        return self.get_range(filepath)

    def get_text(self, filepath: str, encoding: str = 'utf-8') -> str:
        """The whole file, decoded."""
        return self.get(filepath).decode(encoding)


@cache
def _has_petrel() -> bool:
    return find_spec('petrel_client') is not None


def _takes_place_of(given: type | None) -> bool:
    """Whether our backend replaces this one. MMEngine gives s3:// to Petrel's client, which is rarely installed."""
    is_ours = given in BACKENDS.values()
    return is_ours or given in (None, HTTPBackend) or (given is PetrelBackend and not _has_petrel())


@FUNCTIONS.register_module()
def find_backend(path: str, backend_args: dict[str, Any] | None = None, *, shared: bool = True) -> Any:
    """The backend of a file.

    Args:
        path: a path or an address.
        backend_args: of ``mmengine.fileio``.
        shared: the same one for the whole process; else a new one.
    """
    args = dict(backend_args or {})
    prefix = os.fspath(path).partition('://')[0] if '://' in os.fspath(path) else ''
    if (name := args.pop('backend', None)) is not None:
        ours, given = BACKENDS.get(name), theirs.get(name)
    else:
        ours, given = PREFIXES.get(prefix), theirs_by_prefix.get(prefix)
    if name is None and ours is None and given is None:
        raise ValueError(
            f"{path!r}: no backend reads addresses of {prefix}://. Give backend_args=dict(backend='fsspec') if fsspec "
            'reads them, or only the path if it is a local file.'
        )
    if ours is None or not _takes_place_of(given):
        return get_file_backend(path, backend_args=backend_args, enable_singleton=shared)
    if not shared:
        return ours(**args)
    key = f'{prefix}:{json.dumps(backend_args)}'
    if key not in _instances:
        _instances[key] = ours(**args)
    return _instances[key]


@FUNCTIONS.register_module()
def register_backends() -> None:
    """Give our backends to MMEngine, for its hooks and all that reads through it."""
    for table, ours in ((theirs, BACKENDS), (theirs_by_prefix, PREFIXES)):
        table.update({key: kind for key, kind in ours.items() if _takes_place_of(table.get(key))})
    # its hooks still use this
    FileClient._prefix_to_backends.update({key: theirs_by_prefix[key] for key in PREFIXES})
