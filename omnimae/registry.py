"""Child registries of MMEngine's, scope ``omnimae``.

A config with ``default_scope = 'omnimae'`` finds a registered component by its bare name. ``custom_imports`` registers
your own (see ``examples/``). A registry imports its modules at the first look-up, so ``import omnimae`` is fast.
"""

import mmengine.registry as root
from mmengine.registry import Registry


def _child(parent: Registry, *modules: str) -> Registry:
    return Registry(parent.name, parent=parent, scope='omnimae', locations=list(modules))


MODELS = _child(root.MODELS, 'omnimae.models')
DATASETS = _child(root.DATASETS, 'omnimae.data')
TRANSFORMS = _child(root.TRANSFORMS, 'omnimae.data')
DATA_SAMPLERS = _child(root.DATA_SAMPLERS, 'omnimae.data')
FUNCTIONS = _child(root.FUNCTIONS, 'omnimae.data')
HOOKS = _child(root.HOOKS, 'omnimae.engine')
LOOPS = _child(root.LOOPS, 'omnimae.engine')
OPTIM_WRAPPERS = _child(root.OPTIM_WRAPPERS, 'omnimae.engine')
OPTIM_WRAPPER_CONSTRUCTORS = _child(root.OPTIM_WRAPPER_CONSTRUCTORS, 'omnimae.engine')
PARAM_SCHEDULERS = _child(root.PARAM_SCHEDULERS, 'omnimae.engine')
OPTIMIZERS = _child(root.OPTIMIZERS, 'omnimae.engine')
VISBACKENDS = _child(root.VISBACKENDS, 'omnimae.engine')
METRICS = _child(root.METRICS, 'omnimae.evaluation')
WEIGHT_INITIALIZERS = _child(root.WEIGHT_INITIALIZERS, 'omnimae.checkpoint')

# These are empty. Without them MMEngine warns, and their parents would not import their own modules.
MODEL_WRAPPERS = _child(root.MODEL_WRAPPERS, 'mmengine.model')
EVALUATOR = _child(root.EVALUATOR, 'mmengine.evaluator')
VISUALIZERS = _child(root.VISUALIZERS, 'mmengine.visualization')
LOG_PROCESSORS = _child(root.LOG_PROCESSORS, 'mmengine.runner')
