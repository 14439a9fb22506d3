"""Links of the site: a name in code leads to its entry in the reference, an arXiv number or an address to its page.

mkdocs.yml lists it as an extension of Markdown. In a text, the first occurrence of a name becomes a link. Short words
of code stay whole.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, SubElement

from markdown import Extension, Markdown
from markdown.inlinepatterns import InlineProcessor
from markdown.treeprocessors import Treeprocessor
from markdown.util import AtomicString

API = re.compile(r'<!-- api: (.+?) -->')
# Words such as `predict` are also methods of models and names of tools. So a name has a capital, a "_" or a ".".
NAME = re.compile(r'(?:omnimae\.[\w.]*?)?([A-Za-z]\w*)((?:\.\w+)?)(?:\(\))?')
# Words that a browser would break at a hyphen, as `--cfg-options`; longer ones may need it.
WHOLE = re.compile(r'((?<!\S)(?=\S*-\w)\S{1,24}(?!\S))')
NO_LINKS = ('a', 'autoref', 'pre', 'h1', 'h2', 'h3', 'h4', 'h5', 'h6')


def entries() -> dict[str, str]:
    """Name -> its whole dotted name, of all entries of the reference."""
    tables = [API.findall(page.read_text()) for page in (Path(__file__).parent / 'api').glob('*.md')]
    return {name.rpartition('.')[2]: name for found in tables for names in found for name in names.split()}


class Names(Treeprocessor):
    """Links names in code."""

    entries = entries()

    def run(self, root: Element) -> None:
        """Link those of a page or of a part of a docstring."""
        self._link(root, set())

    def _link(self, parent: Element, seen: set[str]) -> None:
        for place, child in enumerate(parent):
            if child.tag == 'code' and (target := self._target(child.text or '')) not in (None, *seen):
                seen.add(target)
                link = Element('autoref', identifier=target, optional='optional')
                link.tail, child.tail = child.tail, None
                link.append(child)
                parent[place] = link
            elif child.tag not in NO_LINKS:
                self._link(child, seen)

    def _target(self, text: str) -> str | None:
        match = NAME.fullmatch(text)
        if match is None or match[1] not in self.entries or not re.search(r'[A-Z_.]', text):
            return None
        return self.entries[match[1]] + match[2]


class Words(Treeprocessor):
    """Marks short words of code that have a hyphen. site.css keeps them whole."""

    def run(self, root: Element) -> None:
        """Mark those of a page or of a part of a docstring."""
        if root.tag == 'pre':
            return
        for child in root:
            self.run(child)
        if root.tag == 'code':
            before, *parts = WHOLE.split(root.text or '')
            root.text = AtomicString(before)
            for word, after in zip(parts[::2], parts[1::2], strict=True):
                span = SubElement(root, 'span', {'class': 'whole'})
                span.text, span.tail = AtomicString(word), AtomicString(after)


class Numbers(InlineProcessor):
    """Links arXiv numbers."""

    ANCESTOR_EXCLUDES = ('a',)

    def handleMatch(self, m: re.Match, data: str) -> tuple[Element, int, int]:  # noqa: N802
        """Make the link."""
        link = Element('a', href=f'https://arxiv.org/abs/{m[1]}')
        link.text = m[0]
        return link, m.start(0), m.end(0)


class Links(Extension):
    """All."""

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802
        """Add them after the patterns of Markdown itself."""
        md.inlinePatterns.register(Numbers(r'arXiv:(\d{4}\.\d{4,5})', md), 'arxiv', 10)
        md.treeprocessors.register(Names(md), 'names', 15)
        md.treeprocessors.register(Words(md), 'words', 14)


def makeExtension(**kwargs: Any) -> Links:  # noqa: N802
    """What Markdown calls."""
    return Links(**kwargs)
