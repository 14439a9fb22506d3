"""Import everything that omnimae imports, then omnimae, and print what changed in the former; a program of its own.

Of each module and class of other packages: the attributes, the content of tables, and what registries hold. Reads the
names of the other modules from its input, which has one a line.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import pkgutil
import signal
import socket
import sys
import threading
import types
import warnings
from collections.abc import Iterator
from typing import Any

from mmengine.registry import Registry

KEEP: list[Any] = []  # so that no two things have the same id


def identity(value: Any) -> Any:
    """A thing that is equal as long as the value is the same, and holds the same."""
    KEEP.append(value)
    if isinstance(value, Registry):
        held = {name: id(one) for name, one in value._module_dict.items()}
        return held, {scope: id(child) for scope, child in value._children.items() if scope != 'omnimae'}
    if type(value) is dict:
        KEEP.extend(value.values())
        return {(str(key), id(key)): id(one) for key, one in value.items()}
    if type(value) in (list, set):
        KEEP.extend(value)
        return [id(one) for one in value]
    return id(value)


def attributes(holder: Any, name: str) -> Iterator[tuple[str, Any]]:
    for key, value in [*vars(holder).items()]:
        if key.startswith('__') or isinstance(value, types.ModuleType):
            continue
        yield f'{name}.{key}', identity(value)
        if isinstance(value, type) and value.__module__ == name and holder is not value:
            yield from attributes(value, f'{name}.{key}')


def snapshot(others: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in others:
        if isinstance(sys.modules.get(name), types.ModuleType):
            found.update(attributes(sys.modules[name], name))
    found['handlers of signals'] = [identity(signal.getsignal(number)) for number in signal.valid_signals()]
    found['warnings'] = identity(warnings.filters)
    found['hooks'] = [identity(hook) for hook in (sys.excepthook, threading.excepthook, sys.displayhook)]
    found['handlers of logs'] = identity(logging.root.handlers), logging.root.level
    found['environment'] = dict(os.environ)
    found['time-out of sockets'] = socket.getdefaulttimeout()
    return found


def import_everything() -> None:
    """Import every module of omnimae."""
    import omnimae

    for module in pkgutil.walk_packages(omnimae.__path__, 'omnimae.'):
        if not module.name.endswith('__main__'):
            importlib.import_module(module.name)


def changes() -> list[str]:
    """What importing every module of omnimae changed."""
    others = [name for name in map(str.strip, sys.stdin) if name]
    for name in others:
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    before = snapshot(others)
    import_everything()
    after = snapshot(others)
    return sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))


if __name__ == '__main__':
    print(*changes(), sep='\n')
    from mmengine.runner import runner

    from omnimae.engine import compat

    assert runner.save_checkpoint is not compat.save_whole
    compat.setup_environment()
    assert runner.save_checkpoint is compat.save_whole
    assert runner.Runner.save_checkpoint is compat.save_checkpoint
