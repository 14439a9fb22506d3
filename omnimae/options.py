"""Options of a command line, ``--cfg-options k=v ...``."""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Sequence
from functools import partial
from typing import Any

from mmengine.config import DictAction

# Words that begin an option, and an option within the value of another.
_BEGINS = re.compile(r'\s*[\w.-]*\s*=')
_WITHIN = re.compile(r'[,\s]\s*\w+(\.\w+)+\s*=')


class OptionAction(DictAction):
    """MMEngine's ``k=v ...`` on a command line. Here v may also be a dict: ``{a: 1}``, ``[dict(type=LoggerHook)]``.

    A text keeps its blanks. Blanks around "=" and within brackets are allowed.
    """

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option_string: Any = None
    ) -> None:
        """Read the options. A word that is none ends the program."""
        options = dict(getattr(namespace, self.dest, None) or {})
        for word in _joined(values):
            key, equals, text = (part.strip() for part in word.partition('='))
            if not equals or not all(key.split('.')) or text.startswith('='):
                parser.error(f'{option_string}: {word!r} is no k=v. Write it as a.b=1.')
            if key == 'launcher':
                parser.error(f'{option_string}: {word!r} would change nothing. Give --launcher.')
            if not _is_bracket(text) and (text.endswith(',') or _WITHIN.search(text)):
                parser.error(
                    f'{option_string}: {word!r} has a comma too many, or two options. Put blanks between options.'
                )
            try:
                options[key] = self._parse_iterable(text)
            except (SyntaxError, RecursionError):
                parser.error(f'{option_string}: the value of {word!r} cannot be read. Write texts in it in quotes.')
        setattr(namespace, self.dest, options)

    @staticmethod
    def _parse_iterable(val: str) -> Any:
        is_quoted = len(val) > 1 and val[0] == val[-1] and val[0] in '"\'' and val[0] not in val[1:-1]
        text = val[1:-1] if is_quoted else val
        if _is_bracket(text):
            try:
                return _literal(ast.parse(text, mode='eval').body, text)
            except SyntaxError:
                if f'{text[0]}{text[-1]}' in ('[]', '()'):  # perhaps a list of words, such as [/a/b,c]
                    items = map(OptionAction._parse_iterable, _split(text[1:-1]))
                    return tuple(items) if text[0] == '(' else [*items]
                if not is_quoted:
                    raise
        elif ',' in text and not is_quoted:
            return [*map(OptionAction._parse_iterable, _split(text))]
        return DictAction._parse_int_float_bool(text)


def _joined(words: Sequence[str]) -> list[str]:
    """Join what a shell has split at blanks: 'a', '=', '[1,', '2]' are one option."""
    options: list[str] = []
    for word in words:
        last = options[-1] if options else ''
        value = last.partition('=')[2].strip()
        begins = _BEGINS.match(word) and not word.lstrip().startswith('=')
        is_part = _is_open(value) or (last.rstrip().endswith('=') and not begins) or word.lstrip().startswith('=')
        options[-1:] = [f'{last} {word}'.strip()] if is_part else [*options[-1:], word]
    return options


def _split(text: str) -> list[str]:
    """Split at commas outside of brackets."""
    parts, depth = [''], 0
    for char in text:
        depth += (char in '([{') - (char in ')]}')
        if char == ',' and depth == 0:
            parts.append('')
        else:
            parts[-1] += char
    return [part.strip() for part in parts if part.strip()]


def _is_bracket(text: str) -> bool:
    return text.startswith(('[', '(', '{', 'dict('))


def _is_open(text: str) -> bool:
    return _is_bracket(text) and any(text.count(a) > text.count(b) for a, b in ('[]', '()', '{}'))


def _literal(node: ast.expr, source: str) -> Any:
    """Evaluate lists, dicts, numbers and texts. Anything else, such as a word, is a text."""
    inner = partial(_literal, source=source)
    match node:
        case ast.Constant(value):
            return value
        case ast.List(items) | ast.Tuple(items):
            return (list if isinstance(node, ast.List) else tuple)(map(inner, items))
        case ast.Dict(keys, values) if None not in keys:
            return dict(zip(map(inner, keys), map(inner, values), strict=True))  # type: ignore[arg-type]
        case ast.Call(ast.Name('dict'), [], keywords) if all(word.arg for word in keywords):
            return {word.arg: inner(word.value) for word in keywords}
    return DictAction._parse_int_float_bool(ast.get_source_segment(source, node))
