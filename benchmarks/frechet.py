"""Time and memory of the Fréchet distance.

    python benchmarks/frechet.py [n] [d] [threads]

Two sets of random features, 50 000 x 2048 as for an FID, with a spectrum that falls like 1/k.  The last line is one JSON object.
"""
import json
import resource
import sys
import time

import torch

from dcd_nb.draws import rng
from dcd_nb.machine import made_with
from dcd_nb.metrics import frechet_distance


def main(n=50_000, d=2048, threads=2):
    torch.set_num_threads(threads)
    scale = torch.arange(1, d + 1)**-.5
    a, b = (torch.randn(n, d, generator=rng(i)).mul_(scale) for i in (0, 1))
    start, cpu = time.time(), time.process_time()
    value = frechet_distance(a, b)
    print(json.dumps(dict(n=n, d=d, threads=threads, distance=value, seconds=round(time.time() - start, 1), cpu_seconds=round(time.process_time() - cpu, 1),
                          peak_gb=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1e6, 2)) | made_with()))


if __name__ == '__main__': main(*map(int, sys.argv[1:]))
