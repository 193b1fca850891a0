"One thread for each worker of `pytest -n 2`, and neighbours stay together, so that what a file prepares is made once"
import gc
import os
from importlib import import_module

# before torch is imported, and for the processes that tests start
os.environ.setdefault('OMP_NUM_THREADS', '1')
os.environ.setdefault('DCD_PRECISION', 'fp32')      # what tests compare must not depend on the processor


def pytest_configure(config):
    if getattr(config.option, 'dist', None) == 'load': config.option.dist = 'worksteal'


def pytest_collection_finish(session):
    "Objects that stay are not looked at each time garbage is collected: in a whole run that took a tenth of the time"
    if len(session.items) > 500:
        for name in ('torch._dynamo', 'matplotlib.pyplot', 'scipy.stats', 'torchvision', 'dcd_nb.all'):
            import_module(name)
    gc.collect()
    gc.freeze()
