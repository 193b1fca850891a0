"Damage of every kind: a checkpoint is loaded as it was saved, or a sentence says what is wrong."
import os
import pickle
import random
import re
import warnings
from pathlib import Path

import pytest
import torch

from dcd_nb import checkpoint
from dcd_nb.errors import BadInput
from dcd_nb.files import load_tensors

package = Path(checkpoint.__file__).parent


def tensors(k): return {'net.w': torch.arange(12.).view(3, 4)*k, 'adam.step': torch.tensor(float(k)), 'ema.w': torch.full((7,), 1/k).double()}


def same(a, b): return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def damage(data, rand):
    "`data` cut short, with flipped bits, with bytes put in or taken out, or with a part overwritten"
    kind, data = rand.choice(['cut', 'flip', 'flip', 'insert', 'delete', 'zero']), bytearray(data)
    i = rand.randrange(len(data))
    if kind == 'cut': del data[i:]
    if kind == 'flip': data[i] ^= 1 << rand.randrange(8)
    if kind == 'insert': data[i:i] = bytes([rand.randrange(256)])
    if kind == 'delete': del data[i]
    if kind == 'zero': data[i:i+64] = bytes(len(data[i:i+64]))
    return bytes(data)


def test_a_thousand_damaged_checkpoints(tmp_path):
    for k in (1, 2): checkpoint.save(tmp_path, k*100, tensors(k), dict(step=k))
    pair = [tmp_path/f'checkpoint-000000000200.{suffix}' for suffix in ('safetensors', 'json')]
    whole, rand, found = [p.read_bytes() for p in pair], random.Random(0), 0
    for trial in range(1000):
        which = rand.randrange(2)
        pair[which].write_bytes(damage(whole[which], rand))
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter('always')
            got, meta = checkpoint.load(tmp_path)
        assert same(got, tensors(meta['step'])), trial
        if meta['step'] == 1:                                   # the damage was seen: the one before was taken
            found += 1
            assert len(said) == 1 and 'going on from checkpoint-000000000100' in str(said[0].message)
            with pytest.raises(BadInput, match='checkpoint-000000000200'): load_tensors(pair[0])
        pair[which].write_bytes(whole[which])
    assert found > 950
    assert same(checkpoint.load(tmp_path)[0], tensors(2))


def test_newer_format_is_named(tmp_path):
    checkpoint.save(tmp_path, 1, tensors(1), {})
    path = next(tmp_path.glob('*.json'))
    path.write_text(path.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(BadInput, match='has format 2, which this version'): checkpoint.load(tmp_path)


def test_a_vanished_half_is_named(tmp_path):
    checkpoint.save(tmp_path, 1, tensors(1), {})
    next(tmp_path.glob('*.safetensors')).unlink()
    with pytest.raises(BadInput, match='the tensors are not'): checkpoint.load(tmp_path)


# Nothing is ever unpickled

def test_no_module_can_unpickle():
    for path in package.glob('**/*.py'):
        text = path.read_text(encoding='utf-8')
        assert not re.search(r'import pickle|pickle\.|torch\.(load|save)\b|joblib|allow_pickle=True|_object_list|all_gather_object', text), path.name


class Bomb:
    def __reduce__(self): return os.mkdir, (self.path,)


@pytest.mark.parametrize('suffix', ['safetensors', 'json'])
def test_a_pickle_in_place_of_a_file_does_not_run(tmp_path, suffix):
    checkpoint.save(tmp_path, 1, tensors(1), {})
    bomb = Bomb()
    bomb.path = str(tmp_path/'ran')
    with open(next(tmp_path.glob(f'*.{suffix}')), 'wb') as f: pickle.dump(bomb, f)
    with pytest.raises(BadInput): checkpoint.load(tmp_path)
    assert not (tmp_path/'ran').exists()


def test_after_going_back_the_good_checkpoint_stays(tmp_path):
    "A damaged checkpoint of a later image does not count among those that stay, and goes"
    for images in (10, 20, 30): checkpoint.save(tmp_path, images, dict(w=torch.ones(3)), {})
    (tmp_path/'checkpoint-000000000030.safetensors').write_bytes(b'')
    with pytest.warns(UserWarning, match='going on from checkpoint-000000000020'): assert checkpoint.load(tmp_path)[1]['images'] == 20
    checkpoint.save(tmp_path, 25, dict(w=torch.ones(3)), {})
    assert checkpoint.committed(tmp_path) == [25, 20]


def test_files_of_ones_own_stay(tmp_path):
    (tmp_path/'checkpoint-notes.txt').write_text('mine')
    checkpoint.save(tmp_path, 10, dict(w=torch.ones(3)), {})
    assert (tmp_path/'checkpoint-notes.txt').read_text() == 'mine'
