"The program of the page `one_page` stands alone, and learns"
import json
from pathlib import Path

import torch

page = Path(__file__).parents[1]/'nbs/22d_one_page.ipynb'


def program():
    "The cells of the program, without what runs it and without the check against the library"
    cells = [''.join(c['source']) for c in json.loads(page.read_text(encoding='utf-8'))['cells']
             if c['cell_type'] == 'code']
    return '\n\n'.join(s for s in cells if not s.startswith(('#| hide', '#| slow', '#| code-fold')))


def test_the_program_is_short_and_needs_pytorch_alone():
    text = program()
    assert [line for line in text.splitlines() if 'import' in line] == ['import copy, torch',
        'from torch import nn']
    assert len(text.splitlines()) < 130


def test_the_program_learns_a_normal_distribution():
    "One pixel with a normal distribution of standard deviation 0.75: the least-squares denoiser is linear"
    names = {}
    exec(program(), names)
    torch.manual_seed(0)
    y = .75*torch.randn(4000, 1) + .5*torch.randn(4000, 1)
    teacher = names['train'](y, 200, batch=64)
    x, s = torch.linspace(-1.5, 1.5, 31)[:, None], torch.full((31, 1), .8)
    assert (names['denoise'](teacher, x, s) - x*.75**2/(.75**2 + .8**2)).abs().max() < .12
    G = names['distil'](teacher, 60, batch=32)
    made = names['generate'](G, torch.randn(4000, 1))
    assert names['sample'](teacher, 100, 1).shape == (100, 1)
    assert abs(made.mean()) < .15 and .45 < made.std() < .9
