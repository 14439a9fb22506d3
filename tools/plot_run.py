"""Show whether trainings are healthy: one picture and one table of all starts of one or several runs.

python tools/plot_run.py WORK_DIR... [--out FILE.png|.pdf|.svg]

docs/healthy.md explains the curves.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from omnimae.stopping import start_tool

if __name__ == '__main__':
    start_tool()  # the imports take seconds

from omnimae.structures import check_out
from omnimae.visualization.curves import draw_runs, read_run, runs_table


def main(words: Sequence[str] | None = None) -> None:
    """Draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('work_dirs', nargs='+', metavar='WORK_DIR', help='folder of a run: its --work-dir')
    parser.add_argument('--out', help='picture; default: curves.png in the first WORK_DIR')
    args = parser.parse_args(words)
    if args.out and Path(args.out).suffix not in ('.png', '.pdf', '.svg'):
        parser.error(f'--out {args.out}: a picture ends in .png, .pdf or .svg')
    try:
        runs = [read_run(folder) for folder in dict.fromkeys(args.work_dirs)]
        out = check_out(args.out or Path(args.work_dirs[0], 'curves.png'), is_folder=False, name='--out: ')
    except ValueError as error:
        parser.error(str(error))
    out.parent.mkdir(parents=True, exist_ok=True)
    draw_runs(runs).savefig(out)
    print(f'{runs_table(runs)}\n\nThe picture is in {out}.')


if __name__ == '__main__':
    main()
