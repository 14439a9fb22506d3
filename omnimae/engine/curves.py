"""Where else a training's curves go: TensorBoard if it is installed, Weights & Biases after ``wandb login``."""

from __future__ import annotations

import logging
import netrc
import os
import secrets
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import mmengine.visualization
from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.logging import print_log
from mmengine.visualization.vis_backend import force_init_env

from omnimae.registry import VISBACKENDS

WANDB_ID = 'wandb_id.txt'  # in the work directory: a resumed run goes on in the same run of W&B


@VISBACKENDS.register_module()
class WandbVisBackend(mmengine.visualization.WandbVisBackend):
    """MMEngine's WandbVisBackend, which neither stops a training nor uploads code.

    If W&B cannot be reached or refuses the key, the run is recorded in files. Code is only uploaded with
    ``log_code_name``.
    """

    def _init_env(self) -> None:
        try:
            super()._init_env()
        except Exception as error:  # of the network, the server or the key
            import wandb

            wandb.teardown()  # it keeps the id of the failed run
            self._init_kwargs: dict[str, Any] = {**(self._init_kwargs or {}), 'mode': 'offline'}
            print_log(
                f'W&B does not take this run ({str(error).strip().partition(chr(10))[0]}). It is recorded in '
                f'{self._save_dir}/wandb. Upload it by `wandb sync`, or set WANDB_MODE=disabled to turn W&B off.',
                'current',
                logging.WARNING,
            )
            super()._init_env()

    @force_init_env
    def add_config(self, config: Config, **options: Any) -> None:
        """Record the config. A resumed run may have changed it."""
        if self._log_code_name is not None:
            super().add_config(config, **options)
        self._wandb.config.update(config.to_dict(), allow_val_change=True)


def add_log_backends(cfg: Config) -> None:
    """Add backends to ``cfg.visualizer`` that it does not name: TensorBoard, and W&B with its project, name and id."""
    if cfg.get('visualizer') is None or cfg.visualizer.get('vis_backends') is None:
        return
    present = {backend['type'] for backend in cfg.visualizer.vis_backends}
    if find_spec('tensorboard') and 'TensorboardVisBackend' not in present:
        cfg.visualizer.vis_backends.append(dict(type='TensorboardVisBackend'))
    if find_spec('wandb') and _wandb_is_on() and 'WandbVisBackend' not in present:
        cfg.visualizer.vis_backends.append(_wandb_backend(cfg))


def _wandb_is_on() -> bool:
    """Whether there is a key, of ``wandb login`` or the environment, or runs are recorded offline."""
    mode = os.environ.get('WANDB_MODE')
    if mode in ('disabled', 'offline') or os.environ.get('WANDB_API_KEY'):
        return mode != 'disabled'
    host = os.environ.get('WANDB_BASE_URL', 'https://api.wandb.ai').partition('://')[2].strip('/')
    places = [os.environ['NETRC']] if os.environ.get('NETRC') else ['~/.netrc', '~/_netrc']
    for path in map(os.path.expanduser, places):
        try:
            if host in netrc.netrc(path).hosts:
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False


def _wandb_backend(cfg: Config) -> dict[str, Any]:
    folder = Path(cfg.work_dir)
    file = folder / WANDB_ID
    number = file.read_text().strip() if cfg.get('resume') and file.exists() else secrets.token_hex(4)
    if is_main_process():  # the others record nothing
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(number + '\n')
    name = os.environ.get('WANDB_NAME') or '/'.join(folder.absolute().parts[-2:])
    start: dict[str, Any] = dict(project=os.environ.get('WANDB_PROJECT', 'omnimae'), name=name, id=number)
    start |= dict(resume='allow', settings=dict(init_timeout=30))
    curves = [dict(name='iter'), dict(name='*', step_metric='iter')]
    return dict(type='WandbVisBackend', init_kwargs=start, define_metric_cfg=curves)
