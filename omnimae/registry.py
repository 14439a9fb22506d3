"""Child registries of MMEngine's, scope ``omnimae``.

A component registered here is found by its bare name in every config with ``default_scope = 'omnimae'``. One from
outside the package is registered by ``custom_imports`` (see ``examples/``). A registry imports its modules at the first
look-up, so ``import omnimae`` stays cheap.
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
METRICS = _child(root.METRICS, 'omnimae.evaluation')
WEIGHT_INITIALIZERS = _child(root.WEIGHT_INITIALIZERS, 'omnimae.checkpoint')

# These are empty. MMEngine warns of every registry without a child of the default scope, and a child does not make its
# parent import its own modules.
MODEL_WRAPPERS = _child(root.MODEL_WRAPPERS, 'mmengine.model')
EVALUATOR = _child(root.EVALUATOR, 'mmengine.evaluator')
VISUALIZERS = _child(root.VISUALIZERS, 'mmengine.visualization')
VISBACKENDS = _child(root.VISBACKENDS, 'mmengine.visualization')
LOG_PROCESSORS = _child(root.LOG_PROCESSORS, 'mmengine.runner')
