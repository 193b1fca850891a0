"The linear theory: its report, closed forms that can fail, and sliders that move."
import pytest

import dcd_nb.theory as t


@pytest.fixture(scope='module')
def report(): return t.report(seed=0)


def plain(o): return all(map(plain, o.values())) if isinstance(o, dict) else type(o) in (int, float)


def test_report_is_a_plain_dict(report): assert plain(report) and 0 < report['seconds'] < 120


@pytest.mark.parametrize('case', ['plain', 'recorrupted', 'ambient'])
def test_direct_minimisation_finds_the_eigenspace(report, case):
    assert report[case]['angle_deg'] < 1e-5 and report[case]['eigenvalue_error'] < 1e-8


def test_stochastic_students_of_five_seeds_come_close(report):
    assert report['stochastic']['angle_deg'] < 3 and report['stochastic']['eigenvalue_error'] < .03


def test_an_operator_fixes_what_it_sees_and_nothing_else(report):
    m = report['measurement']
    assert m['identifiable_angle_deg'] < 1e-5 and m['identifiable_error'] < 1e-8 and m['kernel_error'] > .1


def test_three_operators_fix_everything(report):
    assert report['pooled']['covariance_error'] < 1e-6 and report['pooled']['rank_condition'] > 1e-4


def test_students_are_closer_to_the_clean_law_than_the_data(report):
    assert 0 < report['w2']['student'] < report['w2']['noisy']/100


@pytest.mark.parametrize('name', t.closed_forms)
def test_closed_form_and_one_percent_more(name):
    "Each formula passes its exact check, and fails it when it is scaled by 1.01"
    form, check = t.closed_forms[name]
    assert form.__module__ == check.__module__ == 'dcd_nb.theory'
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
