"Small recipes of every kind of corruption, objective and loss: what has to run on a device"
from dataclasses import replace

import torch

from dcd_nb.draws import rng
from dcd_nb.losses import DMD
from dcd_nb.mri import MultiCoilMRI
from dcd_nb.networks import MLP
from dcd_nb.objectives import Consistency
from dcd_nb.operators import Corruption, Poisson, RandomMask
from dcd_nb.recipes import ImageSource, recipe, recipes


def shrunken(r):
    "The description of the recipe's network, as small as it can be"
    net = r.network_for(r.teacher_shape()).to_dict() if isinstance(r.network, str) else r.network
    return net | (dict(channels=4, mult=(1,), blocks=1, attn=()) if net['network'] == 'UNet'
                  else dict(width=8, blocks=1))


def kinds():
    "(name, recipe, names) for each kind of recipe in the library: those that differ in sizes and numbers alone make the same steps"
    found = {}
    for name, r in recipes().items():
        if r.corruption is None:
            r = replace(r, corruption=Corruption(RandomMask(.5), .1), data=ImageSource(None, 16, 3),
                        network='small')
        r = replace(r, network=shrunken(r))
        if max(r.image_shape()) > 100:
            r = replace(r, data=replace(r.data, size=(48, 40)), network=r.network | dict(resolution=[48, 40]))
        net = r.network['network'], r.network.get('patch_size', 1), r.network.get('masked', False)
        key = type(r.corruption.op), r.corruption.sigma > 0, type(r.objective_for()), r.student_shape()[0], net, type(r.distill.get('loss'))
        found.setdefault(repr(key), (name, r, []))[2].append(name)
    return [*found.values()]


def small(name, corruption=None, objective=None, **changes):
    "The recipe with a small network, and one step of each phase"
    r, changes = recipe(name), {k.replace('__', '.'): v for k, v in changes.items()}
    sizes = {f'{phase}.{k}': v for phase in ('train', 'distill')
             for k, v in dict(images=32, batch=32).items()}
    r = r.override({'network': shrunken(r)} | sizes | changes)
    return replace(r, corruption=corruption or r.corruption, objective=objective or r.objective)


def observed(r, n=20):
    "A few observations of images that are hardly more than bright or dark"
    x = .1*torch.rand(n, *r.student_shape(), generator=rng(0)) - .9
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
