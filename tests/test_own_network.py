"Modules of other packages as networks: what fits is trained, distilled, saved and loaded; what does not is told in a sentence."
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from dcd_nb.all import *
from dcd_nb.networks import check_network, Wrapped

ys = Corruption(Identity(), .3).measure(digits()[:200], seed=0)


class StandIn(nn.Module):
    "Called as diffusers' UNet2DModel is: forward(sample, timestep) returns an object with .sample"
    def __init__(self, sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8, 16)):
        super().__init__()
        width = block_out_channels[0]
        self.time, self.first, self.last = nn.Linear(1,
                                                     width), nn.Conv2d(in_channels, width, 3,
                                                         padding=1), nn.Conv2d(width, out_channels, 3, padding=1)
    def forward(self, sample, timestep, class_labels=None, return_dict=True):
        return SimpleNamespace(sample=self.last(torch.relu(self.first(sample) + self.time(timestep[:, None]/100)[..., None, None])))


class Mixes(StandIn):
    def __init__(self, in_channels=1):
        super().__init__(in_channels=in_channels); self.norm = nn.BatchNorm2d(1)
    def forward(self, x, t): return self.norm(super().forward(x, t).sample)


class Whitens(StandIn):
    def forward(self, x, t): y = super().forward(x, t).sample; return y - y.mean(0)


class Deaf(StandIn):
    def forward(self, x, t): return self.last(self.first(x))


class Halves(StandIn):
    def forward(self, x, t): return super().forward(x, t).sample[..., ::2]


class Takes(StandIn):
    def forward(self, x): return x


class OfBlocks(nn.Module):
    "Blocks of timm's vision transformer between patches and pixels, with the level as one token more"
    def __init__(self, in_chans=1, width=16, heads=2, depth=1):
        super().__init__()
        from timm.models.vision_transformer import Block
        self.patch_embed, self.level = nn.Conv2d(in_chans, width, 2, 2), nn.Linear(1, width)
        self.blocks = nn.Sequential(*[Block(width, heads) for _ in range(depth)])
        self.head = nn.ConvTranspose2d(width, 1, 2, 2)
    def forward(self, x, t):
        h = self.patch_embed(x)
        tokens = torch.cat([self.level(t[:, None])[:, None], h.flatten(2).transpose(1, 2)], 1)
        return self.head(self.blocks(tokens)[:, 1:].transpose(1, 2).reshape(h.shape))


def whole_way(net, tmp_path):
    "Train, distil, save, load"
    found = check_network(net, (1, 8, 8))
    assert found['parameters'] > 0 and found['gflop'] > 0 and found['room_for_a_mask'] and not found['idle']
    teacher = train(ys, net, images=256, batch=64, out=tmp_path/'t', quiet=True)
    assert torch.equal(Teacher.load(tmp_path/'t').sample(2, steps=3), teacher.sample(2, steps=3))
    G = distill(Teacher.load(tmp_path/'t'), ys, images=128, batch=64, checkpoints=Checkpoints(monitor=False),
                quiet=True)
    G.save(tmp_path/'g')
    again = Generator.load(tmp_path/'g')
    assert torch.equal(again.sample(3), G.sample(3))
    with torch.no_grad():
        for p in again.net.parameters(): p.zero_()
    assert not torch.equal(again.sample(3), G.sample(3))
    assert torch.equal(again.load_state_dict(G.state_dict()).to('cpu').eval().sample(3), G.sample(3))
    return G


def test_a_module_called_as_in_diffusers_goes_the_whole_way(tmp_path):
    assert type(whole_way(Wrapped(StandIn, (1, 8, 8), dict(block_out_channels=(8, 16)), label_scale=100.),
                          tmp_path).net.net.module) is StandIn


def test_a_unet_of_diffusers_goes_the_whole_way(tmp_path):
    diffusers = pytest.importorskip('diffusers')
    kinds = dict(down_block_types=('DownBlock2D',), up_block_types=('UpBlock2D',), block_out_channels=(8,),
                 layers_per_block=1, norm_num_groups=4)
    net = Wrapped(diffusers.UNet2DModel, (1, 8, 8), dict(sample_size=8, out_channels=1, **kinds),
                  label_scale=100.)
    assert net.to_dict()['make'] == 'diffusers.UNet2DModel'
    whole_way(net, tmp_path)


def test_blocks_of_timm_go_the_whole_way(tmp_path):
    pytest.importorskip('timm')
    whole_way(Wrapped(OfBlocks, (1, 8, 8)), tmp_path)


def test_with_masks_it_gets_a_channel_more():
    masked = Corruption(RandomMask(.4)).measure(digits()[:100], seed=0)
    teacher = train(masked, Wrapped(StandIn, (1, 8, 8)), images=64, batch=64, quiet=True)
    assert teacher.net.net.in_channels == 2 and teacher.net.net.module.first.in_channels == 2


def test_it_is_resized_with_its_weights():
    net = Wrapped(StandIn, (1, 8, 8))
    assert net.resized(16).shape == (1, 16, 16) and torch.equal(net.resized(16).module.first.weight,
        net.module.first.weight)


@pytest.mark.parametrize('make,sentence', [
    (lambda: StandIn(), 'wrap its class, Wrapped'), (lambda: Wrapped(Mixes, (1, 8, 8)), 'use GroupNorm'),
    (lambda: Wrapped(Whitens, (1, 8, 8)), 'must not see each other'),
    (lambda: Wrapped(Deaf, (1, 8, 8)), 'does not depend on noise_label'),
    (lambda: Wrapped(Halves, (1, 8, 8)), 'of the same size'),
    (lambda: Wrapped(Takes, (1, 8, 8)), 'cannot be called as'),
    (lambda: Wrapped(StandIn, (3, 8, 8), dict(out_channels=3)), 'not \\(1, 8, 8\\)'),
    (lambda: Wrapped(StandIn, (1, 8, 8), dict(wide=3)), 'do not fit'),
    (lambda: Wrapped('os.system', (1, 8, 8)), 'is not known'),
    (lambda: Wrapped('nowhere.Net', (1, 8, 8)), 'import nowhere first'),
    (lambda: Wrapped(StandIn(), (1, 8, 8)), 'not one that is made already')])
def test_what_does_not_fit_is_told(make, sentence):
    with pytest.raises(BadInput, match=sentence): check_network(make(), (1, 8, 8))


@pytest.mark.parametrize('net', [lambda: UNet(8, 1, channels=8), lambda: MLP((1, 8, 8), width=16),
                                 lambda: Transformer(8, 1, width=16, depth=2)])
def test_networks_of_the_package_pass(net): assert check_network(net(), (1, 8, 8))['idle'] == []
