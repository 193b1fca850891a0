"Restoration of 200 digits: error of the mean, coverage of 90 % intervals and seconds, with the misfit learned from them"
import argparse, time

import torch

from dcd_nb.data import digits
from dcd_nb.distill import Generator
from dcd_nb.operators import Corruption, Identity, RandomMask
from dcd_nb.restore import learn_misfit, restore, Sample

corruptions = dict(noise=Corruption(Identity(), .5), mask=Corruption(RandomMask(.5), .1))


def timed(f):
    start, cpu = time.monotonic(), time.process_time()
    found = f()
    return found, time.monotonic() - start, time.process_time() - cpu


def main(kind, generator, n, seeds):
    G = Generator.from_pretrained(generator or f'digits-{kind}')
    clean = digits()[1400:1600]
    for seed in range(seeds):
        ys = corruptions[kind].measure(digits(), seed)[1400:1600]
        M, *learning = timed(lambda: learn_misfit(G, ys, seed=seed))
        r, *sampling = timed(lambda: restore(G, ys, Sample(M), n, seed))
        low, high = r.interval(.9)
        inside = ((low <= clean) & (clean <= high)).float().mean().item()
        error = (r.mean - clean).square().mean().item()
        print(f'{kind} seed {seed}: mse {error:.5f}, coverage {inside:.4f}, {M}; '
              f'learn {learning[0]:.1f} s ({learning[1]:.2f} of the CPU), '
              f'restore {sampling[0]:.1f} s ({sampling[1]:.2f} of the CPU)', flush=True)


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('kind', choices=corruptions)
    p.add_argument('--generator', help='path; default: the one of the package')
    p.add_argument('--n', type=int, default=32)
    p.add_argument('--seeds', type=int, default=3)
    main(**vars(p.parse_args()))
