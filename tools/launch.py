"""PyTorch's torchrun, with more time for the ranks to save; dist_train.sh starts it, with torchrun's arguments.

torchrun hands a SIGTERM on to the ranks and kills those that still run after 30 seconds. A checkpoint of 8 GB can take
longer. Here they have as many seconds as TORCH_ELASTIC_SHUTDOWN_TIMEOUT says, 120 if nothing does.
"""

from __future__ import annotations

import os

from torch.distributed import run
from torch.distributed.elastic.multiprocessing.api import PContext


def main() -> None:
    """Launch."""
    seconds = os.environ.setdefault('TORCH_ELASTIC_SHUTDOWN_TIMEOUT', '120')
    PContext.close.__defaults__ = (None, int(seconds))  # torch 2.14 reads the variable itself, 2.11 does not
    run.main()


if __name__ == '__main__':
    main()
