"One thread for each worker of `pytest -n 2`"
import os

os.environ.setdefault('OMP_NUM_THREADS', '1')       # before torch is imported, and for the processes that tests start
