"The linear theory: closed forms that can fail, and sliders that move. (The page From theory to practice checks its report.)"
import pytest

import dcd_nb.theory as t


@pytest.mark.parametrize('name', t.closed_forms)
def test_closed_form_and_one_percent_more(name):
    "Each formula passes its exact check, and fails it when it is scaled by 1.01"
    form, check = t.closed_forms[name]
    assert form.__module__ == check.__module__ and form.__module__.startswith('dcd_nb.theory.')
    assert check(form) < 1e-8 < 1e-3 < check(lambda *a, **kw: 1.01*form(*a, **kw))


def test_what_has_no_exact_check_says_so():
    for f in (t.sampling_sine, t.transition_sine): assert f.__doc__.startswith('A sampling statement')
    assert t.widening.__doc__.startswith('To first order')


def test_every_slider_moves_the_picture():
    *knobs, picture = t.theory_explorer().children
    for knob, value in zip(knobs, (.5, .2, 7, 2., 64), strict=True):
        before, old = picture.value, knob.value
        knob.value = value
        assert picture.value != before
        knob.value = old
        assert picture.value == before
