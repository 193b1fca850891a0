"A recipe holds objects; what it says in plain values is read back, today's words and older ones."
import json
import re

import pytest
import torch
from test_held_tensors import MotionBlur

from dcd_nb.diffusion import KarrasLevels, LogUniform
from dcd_nb.errors import BadInput
from dcd_nb.losses import DMD, SiD
from dcd_nb.networks import MLP, Network
from dcd_nb.objectives import AmbientTweedie, Objective, Standard
from dcd_nb.operators import Compose, Corruption, GaussianBlur, Identity, RandomMask
from dcd_nb.recipes import ImageSource, Recipe, add_recipe, recipe, recipes
from dcd_nb.recipes.library import _library
from dcd_nb.record import Record
from dcd_nb.runs import run_recipe
from dcd_nb.training import RunFolder, Teacher

tiny = dict(network=MLP((1, 8, 8), width=16, blocks=1), data__n=100, train__images=640, train__batch=64,
            distill__images=320, distill__batch=64)


@pytest.mark.parametrize('name', recipes())
def test_plain_values_and_back(name):
    "Through JSON, whose text is that of what was read back; and through a change, which leaves the library alone"
    r, before = recipe(name), json.dumps(recipes()[name].to_dict())
    again = Recipe.from_dict(json.loads(before))
    assert again == r == recipes()[name] and json.dumps(again.to_dict()) == before and repr(again) == repr(r)
    # which would be made for nothing
    assert isinstance(r.objective, (Objective, dict)) and not isinstance(r.network, Network)
    assert name == 'own' or isinstance(r.corruption, Corruption)
    r.train['lr'] = 5.
    if 'fake' in r.distill: r.distill['fake']['lr'] = 5.
    recipes()[name].override({'train.lr': 5., 'distill.fake.lr': 5.})
    assert json.dumps(recipes()[name].to_dict()) == before != json.dumps(r.to_dict())


def test_no_two_recipes_share_their_settings():
    found = [id(part) for r in recipes().values()
             for part in (r.objective, r.train, r.distill, r.distill.get('fake'), r.network)
             if isinstance(part, dict)]
    assert len(found) == len({*found})


def test_levels_and_the_generator_follow_the_noise_unless_they_are_named():
    r = recipe('digits-noise')                                                # sigma = .5, init_sigma = .7
    for changes in ({'corruption.sigma': .25}, {'corruption': Corruption(Identity(), .25)}):
        half = r.override(changes)
        assert (half.distill['loss'].levels.lo, half.distill['init_sigma'],
                half.objective_for().sigma) == (.25, .35, .25)
        for named in (changes | {'distill.init_sigma': .7}, {'distill.init_sigma': .7} | changes):
            assert r.override(named).distill['init_sigma'] == .7
        assert r.override({'distill.loss': SiD(.5, LogUniform(.5, 4.))}
                          | changes).distill['loss'].levels.lo == .5
    # a generator does not begin with noise that is weak beside the images
    assert [r.override({'corruption.sigma': s}).distill['init_sigma'] for s in (.3, .06, 1.)] == [.42, .35, 1.4]
    assert r.override({'corruption.sigma': .06}).override({'corruption.sigma': .5}) == r
    # no levels start at 0
    assert repr(r.override({'corruption.sigma': 0.}).distill) == repr(r.distill)
    own = r.override({'objective.levels': LogUniform(.5, 9.)}).override({'corruption.sigma': .25})
    assert repr(own.objective_for()) == repr(AmbientTweedie(.25, LogUniform(.25, 9.)))
    whole = r.override({'objective': AmbientTweedie(.5, LogUniform(.5, 9.))}).override({'corruption.sigma': .25})
    # an objective of one's own keeps its sigma
    assert repr(whole.objective_for()) == repr(AmbientTweedie(.5, LogUniform(.25, 9.)))
    mask = recipe('digits-mask', corruption__sigma=.1)                        # there was none before
    assert mask.distill['loss'].levels.lo == .1 and 'init_sigma' not in mask.distill


@pytest.mark.parametrize('name, v, read', [
    ('corruption.op.missing', .7, lambda r: r.corruption.op.missing),
    ('corruption.op', Compose(GaussianBlur(), RandomMask(.2)), lambda r: r.corruption.op),
    ('data.n', 7, lambda r: r.data.n), ('network.width', 32, lambda r: r.network['width']),
    ('network', 'digits', lambda r: r.network),
    ('objective.delta', .2, lambda r: r.objective_for().delta),
    ('objective', Standard(), lambda r: r.objective_for()),
    ('train.device', 'cpu', lambda r: r.train['device']),
    ('distill.loss.levels.hi', 9., lambda r: r.distill['loss'].levels.hi),
    ('distill.loss', DMD(), lambda r: r.distill['loss']),
    ('distill.fake.clip', .5, lambda r: r.distill['fake']['clip']), ('title', 'mine', lambda r: r.title)])
def test_a_name_goes_as_deep_as_the_objects(name, v, read):
    r = recipe('digits-mask')
    before, other = repr(r), r.override({name: v})
    assert repr(read(other)) == repr(v) and repr(r) == before and other != r == recipe('digits-mask')
    assert Recipe.from_dict(json.loads(json.dumps(other.to_dict()))) == other
    assert name.partition('.')[0] == 'network' or other.network == r.network


@pytest.mark.parametrize('changes, says', [
    ({'train.lrr': 1}, "train='lrr' is not known; did you mean 'lr'?"),
    ({'distill.init_sigmas': 1}, "distill='init_sigmas' is not known; did you mean 'init_sigma'?"),
    ({'distill.fake.lrr': 1}, "distill.fake='lrr' is not known; did you mean 'lr'?"),
    ({'trian.lr': 1}, "'trian' is not known; did you mean 'train'?"),
    ({'corruption.sigmas': 1}, "corruption='sigmas' is not known; did you mean 'sigma'?"),
    ({'corruption.op.mising': 1}, "corruption.op='mising' is not known; did you mean 'missing'?"),
    ({'data.nn': 1}, "data='nn' is not known; did you mean 'n'?"),
    ({'train.lr.x': 1}, "'train.lr.x' names nothing in this recipe: train.lr is 0.001"),
    ({'distill.loss.levels.mid': 1}, "distill.loss.levels='mid' is not known"),
    ({'objective.levels.lo': 1}, "objective='levels' is not known"),
    ({'train.monitor': 1}, "train='monitor' is not known"), ({'train.out': 1}, "train='out' is not known"),
    ({'train.hardware': 1}, "train='hardware' is not known"),
    ({'data.n': 0}, 'data.n=0 must be a positive whole number'),
    ({'corruption.sigma': -1}, 'sigma=-1 must be a finite number'),
    ({'corruption.op.missing': 2}, 'missing=2 must be at least 0'),
    ({'data': 'digits'}, "data='digits' must be an ImageSource"),
    ({'corruption': Identity()}, 'corruption=Identity() must be a Corruption'),
    ({'network': 5}, 'network=5 must be a network'),
    ({'objective': None}, 'objective=None must be an Objective'),
    ({'train': None}, 'train=None must be a dict'), ({'distill': []}, 'distill=[] must be a dict'),
    ({'name': 5}, 'name=5 must be a text')])
def test_what_is_wrong_is_one_sentence(changes, says):
    with pytest.raises(BadInput, match=re.escape(says)) as e: recipe('digits-mask').override(changes)
    assert '\n' not in str(e.value)


def test_own_measurements_have_their_own_corruption():
    r = recipe('own')
    for ask in (r.objective_for, r.teacher_shape, r.student_shape, r.cost):
        with pytest.raises(BadInput, match="recipe 'own' has no corruption of its own"): ask()
    with pytest.raises(BadInput, match="'corruption.sigma' names nothing in this recipe: corruption is None"):
        r.override({'corruption.sigma': 1.})
    with pytest.raises(BadInput, match='r must be a Recipe, but is dict'): add_recipe(r.to_dict())


def test_one_budget_replaces_the_other():
    r = recipe('digits-noise', **tiny)
    timed = Recipe(**vars(r) | dict(train={k: v for k, v in r.train.items() if k != 'images'}
                                    | dict(minutes=5)))
    ys = timed.measurements()
    assert timed.teacher(ys, images=128, quiet=True).cost['images'] == 128
    assert r.teacher(ys, minutes=.005, quiet=True).cost['images'] < 640_000
    with pytest.raises(BadInput, match='give one of the two'): r.teacher(ys, minutes=1, images=64, quiet=True)


@pytest.mark.parametrize('A', [Corruption(Identity(), .5), Corruption(MotionBlur(torch.eye(3)/3), .5)],
                         ids=['noise', 'a kernel'])
def test_folders_of_a_version_that_said_less_go_on_in_their_own_words(A, tmp_path, monkeypatch):
    "Older recipes left out what was a default, e.g. the levels of a loss; another recipe is still refused"
    r = recipe('digits-noise', **tiny, corruption=A, distill__loss=SiD(.5))
    ys = r.measurements()
    def go(r, **kw):
        teacher = r.teacher(ys, out=tmp_path/'teacher', quiet=True, **kw)
        return teacher, r.student(teacher, ys, monitor=False, out=tmp_path/'student', quiet=True, **kw)
    def old(out, plan, *args):
        said = plan['about']['recipe']
        assert said['distill']['loss'] == SiD(.5, KarrasLevels()).to_dict()
        said = said | dict(distill=said['distill'] | dict(loss=dict(loss='SiD', alpha=.5)))
        return RunFolder(out, plan | dict(about=dict(recipe=said)), *args)
    with monkeypatch.context() as m:
        m.setattr('dcd_nb.training.setup.RunFolder', old)
        first = go(r)
    said = {name: (tmp_path/name/'recipe.json').read_text() for name in ('teacher', 'student')}
    assert json.loads(said['teacher'])['about']['recipe']['distill']['loss'] == dict(loss='SiD', alpha=.5)
    for model, before in zip(go(r, resume=True), first):
        assert model.cost['resumed_at'] == before.cost['images'] and model.cost['weights_sha256'] == before.cost['weights_sha256']
    for name, text in said.items(): assert (tmp_path/name/'recipe.json').read_text() == text
    teacher = Teacher.load(tmp_path/'teacher')
    assert Recipe.from_dict(teacher.about['recipe'], teacher.held) == r
    with pytest.raises(BadInput, match='student.* was begun with learn.generator.lr='):
        go(r.override({'distill.lr': .5}), resume=True)


def test_a_record_holds_its_recipe_in_plain_values(tmp_path, monkeypatch):
    monkeypatch.setitem(_library, 'mine', recipe('digits-blur', **tiny).override({'name': 'mine'}))
    run_recipe('mine', tmp_path, n=50, quiet=True)
    record = Record(tmp_path/'record')
    assert record.recipe == recipe('mine') and record.results['recipe'] == 'mine' and [*record.plans] == ['teacher', 'student']
    plain = json.loads((tmp_path/'record/recipe.json').read_text())
    assert plain['recipe'] == recipe('mine').to_dict() == plain['teacher']['about']['recipe'] == plain['student']['about']['recipe']


def test_printing_makes_no_weights():
    "The network of a recipe is printed with its size, and takes no memory"
    r, made = recipe('fastmri-R4'), []
    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **kwargs or {})
            if torch.is_tensor(out) and out.device.type != 'meta': made.append(out.numel())
            return out
    with Watch(): text = repr(r)
    assert '20.01 M parameters' in text and sum(made) < 1e5


def test_an_image_source_loads_what_it_names():
    assert ImageSource('digits', n=5).load().shape == (5, 1, 8, 8) and ImageSource().load('digits').shape == (1797, 1, 8, 8)
    assert torch.equal(recipe('digits-noise', data__n=5).clean_images(), ImageSource('digits').load()[:5])
