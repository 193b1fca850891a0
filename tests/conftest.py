"One thread for each worker of `pytest -n 2`, and neighbours stay together, so that what a file prepares is made once"
import os

os.environ.setdefault('OMP_NUM_THREADS', '1')       # before torch is imported, and for the processes that tests start
os.environ.setdefault('DCD_PRECISION', 'fp32')      # what tests compare must not depend on the processor


def pytest_configure(config):
    if getattr(config.option, 'dist', None) == 'load': config.option.dist = 'worksteal'
