"A small part of benchmarks/fuzz.py: bad calls and damaged files lose nothing in silence, and are refused in a sentence."
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent/'benchmarks'))


def test_a_part_of_the_fuzz():
    import fuzz
    found = fuzz.fuzz(calls=40, files=34, seed=2)
    assert (found['loss'], found['wrong'], found['traceback']) == (0, 0, 0), found['bad']
    assert found['counts']['archives'] == dict(refused=8) and found['counts']['calls']['refused'] > 20 and found['counts']['files']['refused'] > 15


def test_a_loss_would_be_seen():
    import fuzz
    import torch
    x = torch.arange(4.)
    assert fuzz.judged(lambda path: x[:3], None, x, True) == ('loss', None) and fuzz.judged(lambda path: x + 1, None, x, True) == ('wrong', None)
    assert fuzz.judged(lambda path: 1/0, None, x, True)[0] == 'traceback' and fuzz.judged(lambda path: x, None, x, True) == ('same', None)
