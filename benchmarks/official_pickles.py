"""Pickles written by the official codes, with random weights, and what their networks make of random inputs.

    python benchmarks/official_pickles.py CODES OUT

CODES is a folder with checkouts `edm`, `sid` and `ambient-diffusion`; those that are missing are left out. For each network this
writes OUT/NAME.pkl, and OUT/NAME.pt with inputs, levels and outputs. Their licences forbid to copy them into this repository.
"""
import copy
import pickle
import sys
import types
from pathlib import Path

import torch

song = dict(model_type='SongUNet', model_channels=16, channel_mult=[1, 2], num_blocks=1, attn_resolutions=[8], decoder_type='standard')
ddpm = song | dict(embedding_type='positional', encoder_type='standard', channel_mult_noise=1, resample_filter=[1, 1])
ncsn = song | dict(embedding_type='fourier', encoder_type='residual', channel_mult_noise=2, resample_filter=[1, 3, 3, 1])
adm = dict(model_type='DhariwalUNet', model_channels=64, channel_mult=[1, 2], num_blocks=1, attn_resolutions=[8])
networks = {    # checkout, channels, classes, arguments
    'edm': ('edm', 3, 0, ddpm), 'edm-classes': ('edm', 3, 10, ddpm), 'edm-ncsnpp': ('edm', 3, 0, ncsn), 'edm-adm': ('edm', 3, 0, adm),
    'sid': ('sid', 3, 0, ddpm), 'ambient': ('ambient-diffusion', 6, 0, ddpm), 'ambient-without-gates': ('ambient-diffusion', 6, 0, ddpm | dict(gated=False))}


def write(name, code, channels, classes, arguments, out):
    "One pickle as that code's training loop writes it"
    from training import networks as theirs
    torch.manual_seed(0)
    net = theirs.EDMPrecond(img_resolution=16, img_channels=channels, label_dim=classes, dropout=.1, augment_dim=9, **arguments)
    for p in net.parameters():
        if p.ndim > 1: torch.nn.init.normal_(p, 0, .1)
    net = net.eval().requires_grad_(False)
    kept = dict(ema=net)
    if code != 'sid':
        from training.augment import AugmentPipe
        from training import loss
        dataset = dict(class_name='training.dataset.ImageFolderDataset', path='images.zip', resolution=16)
        if code == 'ambient-diffusion':
            kept['ema'] = copy.deepcopy(torch.compile(net)).state_dict()
            dataset |= dict(corruption_probability=.6, delta_probability=.1, mask_full_rgb=True)
        kept |= dict(loss_fn=loss.EDMLoss(), augment_pipe=AugmentPipe(p=.12, xflip=1e8, scale=1), dataset_kwargs=dataset)
    with open(out/f'{name}.pkl', 'wb') as f: pickle.dump(kept, f)
    x, s = torch.randn(4, channels, 16, 16), torch.tensor([.01, .3, 2., 20.])
    if channels == 6:
        m = (torch.rand(4, 1, 16, 16) < .5).float().expand(-1, 3, -1, -1)
        x = torch.cat([x[:, :3]*m, m], 1)
    label = torch.nn.functional.one_hot(torch.arange(4), classes).float() if classes else None
    torch.save(dict(x=x, s=s, y=net(x, s, label)[:, :3]), out/f'{name}.pt')
    torch.save(dict(net=net, optimizer_state={}), out/f'{name}-state.pt')


def main(codes, out):
    codes, out = Path(codes), Path(out)
    out.mkdir(parents=True, exist_ok=True)
    for name in ('s3fs', 'wandb'): sys.modules.setdefault(name, types.ModuleType(name))    # imported, and not needed here
    before = {*sys.modules}
    for name, (code, *others) in networks.items():
        if not (codes/code).is_dir(): continue
        for module in {*sys.modules} - before:
            if module.split('.')[0] in ('training', 'torch_utils', 'dnnlib'): del sys.modules[module]
        sys.path.insert(0, str(codes/code))
        write(name, code, *others, out)
        sys.path.remove(str(codes/code))


if __name__ == '__main__': main(*sys.argv[1:])
