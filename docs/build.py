"""Build the site in build/site: `python docs/build.py`, after `pip install '.[docs]'`. `--serve` shows it, with search.

The pages are those of the repository, which GitHub shows, too: README, docs/, configs/README. They are laid out in
build/pages, where Zensical reads them. Each linked source, such as a config, gets a page. Docstrings take the places of
the tables in docs/api/. A warning is an error.
"""

from __future__ import annotations

import argparse
import posixpath
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES, SITE = ROOT / 'build' / 'pages', ROOT / 'build' / 'site'
TEXTS = ('README.md', 'CHANGELOG.md', 'CONTRIBUTING.md', 'docs/**/*.md', 'configs/README.md', 'benchmarks/results/*.md')
PICTURES = ('docs/images/*', 'docs/site.css', 'benchmarks/results/*.png')
SOURCES = ('.py', '.sh', '.yaml', '.json')
LINK = re.compile(r'(?<=\]\()(?!\w+:)([^)#\s]+)')
ROW = re.compile(r'^\|.*', re.MULTILINE)
NUMBER = re.compile(r'(?<=\d) (?=[%±])|(?<=±) (?=\d)')  # 55.5 ± 0.8 %
REFERENCE = re.compile(r'<!-- api: (.+?) -->\n.*?<!-- end -->', re.DOTALL)


def place(path: str) -> str:
    """Of a file of the repository in the site: the guides are its top, and a source is a page."""
    path = {'README.md': 'readme.md'}.get(path, path.removeprefix('docs/'))
    return f'{path}.md' if path.endswith(SOURCES) else path


def page(path: str, text: str, sources: set[str]) -> str:
    """The text of a page with links that follow, and docstrings in their places; notes the sources it links to."""

    def link(match: re.Match) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), match[1]))
        if not (ROOT / target).is_file():
            sys.exit(f'{path} links to {match[1]}, which is no file. Correct the link.')
        if target.endswith(SOURCES):
            sources.add(target)
        return posixpath.relpath(place(target), posixpath.dirname(place(path)) or '.')

    text = ROW.sub(lambda match: NUMBER.sub('\N{NO-BREAK SPACE}', match[0]), text)  # numbers in cells stay whole
    text = REFERENCE.sub(lambda match: '\n\n'.join(f'::: {name}' for name in match[1].split()), text)
    return LINK.sub(link, text)


def found(patterns: Iterable[str]) -> list[str]:
    """Files of the repository."""
    paths = {path.relative_to(ROOT).as_posix() for pattern in patterns for path in ROOT.glob(pattern)}
    return sorted(paths)


def lay_out() -> None:
    """Write build/pages anew."""
    shutil.rmtree(PAGES, ignore_errors=True)
    sources: set[str] = set()
    pages = {path: page(path, (ROOT / path).read_text(), sources) for path in found(TEXTS)}
    for path in sorted(sources):
        pages[path] = (
            f'---\nhide: [toc]\n---\n\n# {path}\n\n```{path.rpartition(".")[2]}\n{(ROOT / path).read_text()}```\n'
        )
    for path, text in pages.items():
        (PAGES / place(path)).parent.mkdir(parents=True, exist_ok=True)
        (PAGES / place(path)).write_text(text)
    for path in found(PICTURES):
        (PAGES / place(path)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, PAGES / place(path))


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description='Build the site in build/site.')
    parser.add_argument('--serve', action='store_true', help='show it at http://127.0.0.1:8000, where its search works')
    args = parser.parse_args()
    lay_out()
    code = subprocess.call([sys.executable, '-m', 'zensical', 'build', '--clean', '--strict'], cwd=ROOT)
    if args.serve and not code:
        code = subprocess.call([sys.executable, '-m', 'http.server', '-d', str(SITE), '-b', '127.0.0.1'])
    return code


if __name__ == '__main__':
    sys.exit(main())
