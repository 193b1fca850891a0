"Small recipes of every kind of corruption, objective and loss: what has to run on a device"
from dataclasses import replace

import torch

from dcd_nb.draws import rng
from dcd_nb.losses import DMD
from dcd_nb.mri import MultiCoilMRI
from dcd_nb.networks import MLP
from dcd_nb.objectives import Consistency
from dcd_nb.operators import Corruption, Poisson
from dcd_nb.recipes import recipe


def small(name, corruption=None, objective=None, **changes):
    "The recipe with a small network, and one step of each phase"
    r, changes = recipe(name), {k.replace('__', '.'): v for k, v in changes.items()}
    net = dict(channels=4, mult=(1,), blocks=1, attn=()) if r.network['network'] == 'UNet' else dict(width=8, blocks=1)
    sizes = {f'{phase}.{k}': v for phase in ('train', 'distill') for k, v in dict(images=32, batch=32).items()}
    r = r.override({'network': r.network | net} | sizes | changes)
    return replace(r, corruption=corruption or r.corruption, objective=objective or r.objective)


def observed(r, n=20):
    "A few observations of images that are hardly more than bright or dark"
    shape = (2, 16, 16) if r.name.startswith('phantoms') else r.image_shape()
    x = .1*torch.rand(n, *shape, generator=rng(0)) - .9
    x[::2] *= -1
    return r.corruption.measure(x)


cases = dict(
    noise=small('digits-noise', train__flip=True, train__images=64, distill__images=64),
    photons=small('digits-saturation', Corruption(Poisson(30.))),
    mask=small('mnist-mask-noise'),
    smaller=small('celebahq-sr-noise-0.2'),
    blur=small('mnist-blur', network=MLP((1, 28, 28), width=8, blocks=1)),
    scans=small('phantoms-16-R2', Corruption(MultiCoilMRI(2, acs=2, lines='equispaced'))),
    consistency=small('digits-noise', objective=Consistency(.5)),
    DMD=small('digits-noise', distill__loss=DMD()))
