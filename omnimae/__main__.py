"""The console command `omnimae`, which runs the tools of ``tools/`` without a checkout.

`omnimae train CONFIG` is `python tools/train.py CONFIG` with the same arguments. `python -m omnimae` is the same
command, for torchrun.
"""

from __future__ import annotations

import ast
import difflib
import os
import shlex
import sys
import traceback
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType

import omnimae
from omnimae.stopping import named_command

TOOLS = Path(__file__).parent / '.mim' / 'tools'
# Parts of other tools, and scripts that set up a checkout.
NO_COMMANDS = {'launch.py', 'slurm.sh', 'quickstart.sh', 'run_tests.sh', 'setup_venv.sh'}
LONGEST = 300  # characters of a command that messages repeat
USAGE = """usage: omnimae COMMAND [arguments]      omnimae COMMAND --help: its arguments      omnimae --version

CONFIG is the path of a config, or its name below configs/, such as custom/pretrain.

commands:"""


def commands() -> dict[str, Path]:
    """Name of each command -> its tool."""
    files = sorted(path for path in TOOLS.iterdir() if path.suffix in ('.py', '.sh') and path.name not in NO_COMMANDS)
    return {path.stem.replace('_', '-'): path for path in files}


def summary(tool: Path) -> str:
    """First line of a tool's docstring or comment."""
    text = tool.read_text(encoding='utf-8')
    if tool.suffix == '.py':
        return (ast.get_docstring(ast.parse(text)) or '').partition('\n')[0]
    return text.splitlines()[1].removeprefix('# ').partition(':  ')[0] + '.'


def main() -> None:
    """Run a command."""
    name, *words = sys.argv[1:] or ['--help']
    known = commands()
    if name in ('-h', '--help'):
        print(USAGE, *(f'  {command:26}{summary(tool)}' for command, tool in known.items()), sep='\n')
    elif name == '--version':
        print(omnimae.__version__)
    elif name not in known:
        near = difflib.get_close_matches(name.replace('_', '-'), known, 1)
        remedy = f'Did you mean {near[0]!r}?' if near else 'omnimae --help lists them.'
        sys.exit(f'omnimae: there is no command {name!r}. {remedy}')
    elif known[name].suffix == '.sh':
        # it calls `python`, which must be this one
        path = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get('PATH', os.defpath)])
        os.execvpe('bash', ['bash', str(known[name]), *words], {**os.environ, 'PATH': path})
    else:
        sys.argv = [f'omnimae {name}', *words]
        # as `python TOOL` does: spawned processes and pickled classes need this __main__
        sys.modules['__main__'] = module = ModuleType('__main__')
        module.__file__ = str(known[name])
        whole = shlex.join(['omnimae', name, *words])
        # that of one of several ranks is not what the user has typed
        is_whole = len(whole) <= LONGEST and '--launcher' not in whole and 'WORLD_SIZE' not in os.environ
        try:
            with named_command(whole) if is_whole else nullcontext():
                exec(compile(known[name].read_text(encoding='utf-8'), module.__file__, 'exec'), vars(module))
        except ValueError as error:
            *_, (frame, _) = traceback.walk_tb(error.__traceback__)
            if not Path(frame.f_code.co_filename).is_relative_to(Path(__file__).parent):
                raise
            sys.exit(f'omnimae {name}: {error}')  # the text says what to do; `python TOOL` shows where it was raised


if __name__ == '__main__':
    main()
