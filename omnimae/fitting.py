"""Compares the values of a config with the annotations of its components.

Values are plain data: None, numbers, texts, lists and dicts. A list may replace a tuple, because ``--cfg-options`` make
lists. A dict may replace an object of a class, because MMEngine builds one from it.
"""

from __future__ import annotations

import functools
import inspect
import math
import os
import types
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from torch import Tensor

UNIONS = (Union, types.UnionType)
PLAIN = (bool, int, float, str, list, tuple, dict, type(None))

# Argument -> lowest and highest value of a number, or of each number in a list. A name means the same everywhere.
_POSITIVE = (1, math.inf)
LIMITS: dict[str, tuple[float, float]] = {
    **dict.fromkeys(('depth', 'num_workers', 'lr', 'weight_decay', 'eps', 'start_lr', 'end_lr'), (0, math.inf)),
    **dict.fromkeys(('max_norm', 'max_skipped', 'head_init_std', 'timeout', 'patience'), (0, math.inf)),
    **dict.fromkeys(('embed_dim', 'num_heads', 'num_frames', 'num_clips', 'num_classes', 'channels'), _POSITIVE),
    **dict.fromkeys(('patch_size', 'clip_size', 'size', 'stride', 'upscale', 'topk', 'k'), _POSITIVE),
    **dict.fromkeys(('max_epochs', 'num_samples', 'window_size'), _POSITIVE),
    **dict.fromkeys(('drop_path_rate', 'dropout', 'label_smoothing', 'momentum', 'betas', 'max_ratio'), (0, 1)),
    'seed': (0, 2**32 - 1),
}


def parameters_of(component: Callable) -> tuple[dict[str, inspect.Parameter], bool]:
    """Parameters of a component, and whether it takes any others.

    ``**kwargs`` adds those of the base class. Annotations are types, or Any if these cannot be looked up.
    """
    functions = [component]
    if inspect.isclass(component):
        functions = [vars(base)['__init__'] for base in component.__mro__[:-1] if '__init__' in vars(base)]
    found: dict[str, inspect.Parameter] = {}
    is_open = False
    for function in functions:
        hints = _hints_of(function)
        parameters = inspect.signature(function).parameters.values()
        own = {x.name: x.replace(annotation=hints.get(x.name, Any)) for x in parameters}
        found = own | found
        is_open = any(parameter.kind is parameter.VAR_KEYWORD for parameter in own.values())
        if not is_open:
            break
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {name: x for name, x in found.items() if name != 'self' and x.kind in named}, is_open


@functools.cache
def _hints_of(function: Callable) -> dict[str, Any]:
    try:
        return get_type_hints(function)
    except Exception:  # annotations of another package may name what is not imported
        return {}


def misfit(parameter: inspect.Parameter, value: Any) -> str | None:
    """Say why a parameter does not take a value, None if it does."""
    hint, default = parameter.annotation, parameter.default
    if value is None and default is None:
        return None
    if hint is Any and isinstance(default, int | float) and isinstance(value, str):
        hint = type(default) if isinstance(default, bool) else float
    if not _fits(hint, value):
        return f'takes {_words(hint)}{_remark(hint, value)}'
    low, high = LIMITS.get(parameter.name, (-math.inf, math.inf))
    numbers = [x for x in (value if isinstance(value, list | tuple) else [value]) if _is_number(x)]
    if any(not low <= x <= high for x in numbers) and value != default:
        return f'takes numbers from {low:g} ' + ('on' if high == math.inf else f'to {high:g}')
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _fits(hint: Any, value: Any) -> bool:
    origin, args = get_origin(hint), get_args(hint)
    kind = origin or hint
    if kind in UNIONS:
        return any(_fits(arg, value) for arg in args)
    if kind is Literal:
        return value in args
    if kind in (Any, object) or not isinstance(kind, type) or not isinstance(value, PLAIN):
        return True  # unknown
    if kind in (type(None), str):
        return isinstance(value, kind)
    if kind is bool:
        return isinstance(value, int) and value in (0, 1)
    if kind is int:
        return _is_number(value) and not isinstance(value, float)
    if kind is float:
        return _is_number(value)
    if kind is Tensor:
        return False
    if issubclass(kind, Mapping):
        return isinstance(value, dict) and all(_fits(args[1], item) for item in value.values() if args)
    if issubclass(kind, tuple) and args and args[-1] is not Ellipsis:
        return isinstance(value, list | tuple) and len(value) == len(args) and all(map(_fits, args, value))
    if kind in (list, tuple) or (issubclass(kind, Collection | Iterable) and kind.__module__ == 'collections.abc'):
        return isinstance(value, list | tuple) and all(_fits(args[0], item) for item in value if args)
    if issubclass(kind, os.PathLike):
        return isinstance(value, str)
    return isinstance(value, dict | str)  # describes or names what is built or called


def _words(hint: Any, *, many: bool = False) -> str:
    """A type in words."""
    origin, args = get_origin(hint), get_args(hint)
    kind = origin or hint
    if kind in UNIONS:
        return ' or '.join(dict.fromkeys(_words(arg, many=many) for arg in args if arg is not Tensor))
    if kind is Literal:
        return ' or '.join(map(repr, args))
    simple = {
        bool: ('True or False', 'True or False'),
        int: ('a whole number', 'whole numbers'),
        float: ('a number', 'numbers'),
        str: ('a text', 'texts'),
        type(None): ('None', 'None'),
        dict: ('a dict', 'dicts'),
    }
    if kind in simple:
        return simple[kind][many]
    if not isinstance(kind, type):
        return 'something else' if not many else 'items'
    if issubclass(kind, Mapping):
        return ('dicts' if many else 'a dict') + (' of dicts' if args and args[1] is dict else '')
    if issubclass(kind, tuple) and args and args[-1] is not Ellipsis:
        return f'{"lists" if many else "a list"} of {len(args)} {_words(args[0], many=True)}'
    if issubclass(kind, Collection | Iterable):
        return ('lists' if many else 'a list') + (f' of {_words(args[0], many=True)}' if args else '')
    return f'a {kind.__name__}'


def _remark(hint: Any, value: Any) -> str:
    if isinstance(value, str):
        return ', and this is a text'
    if isinstance(value, float) and value.is_integer() and _fits(hint, int(value)):
        return f': write {value:.0f}'
    return ''
