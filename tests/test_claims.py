"""What pages say about cells that take too long to run here: the sentences, against the numbers in the stored outputs.

Whoever runs such a cell again with another result learns which sentence has become wrong.
"""
from pathlib import Path

import pytest

from dcd_nb.recipes import recipe, recipes
from dcd_nb.show.notebook import stored_numbers

nbs = Path(__file__).parent.parent/'nbs'
spaces = ('classifier', 'random', 'pca')


def told(name, *keys):
    "What a page keeps under `keys`, from each output of `show_numbers` that has them all: a list of values, or of tuples of them"
    found = [tuple(n[k] for k in keys) for n in stored_numbers(nbs/f'{name}.ipynb') if {*keys} <= {*n}]
    assert found, f'{name} shows no numbers called {keys}: run its slow cells'
    return [v for v, in found] if len(keys) == 1 else found


def summaries():
    "{corruption: {space: {row: numbers of the seeds}}} of the digits"
    found = dict(told('41_digits', 'corruption', 'fd'))
    assert list(found) == ['noise', 'mask', 'blur', 'saturation']
    return found


def quickstarts():
    "{space: {row: numbers of the seeds}} of three seeds in full, and of seven more without what costs most"
    three, seven = told('24_quickstart', 'fd')
    assert len(three['pca']['student']) == 3 and len(seven['pca']['student']) == 7
    return three, seven


def wins(table, opponent, space):
    "For how many seeds is the student nearer?"
    return sum(a < b for a, b in zip(table[space]['student'], table[space][opponent], strict=True))


def test_noise_student_wins_two_spaces_and_two_seeds_of_the_classifiers():
    t = summaries()['noise']
    assert [wins(t, 'best sampler', s) for s in spaces] == [2, 3, 3] and [wins(t, 'equal compute', s)
        for s in spaces] == [0, 3, 3]
    assert all(2.3 < b/a < 3.5 for s in ('random', 'pca')
               for a, b in zip(t[s]['student'], t[s]['best sampler']))


def test_mask_student_wins_everywhere():
    t = summaries()['mask']
    assert all(wins(t, who, s) == 3 for s in spaces for who in ('best sampler', 'equal compute', 'lmmse'))


def test_blur_student_wins_by_factors_against_its_teacher_and_against_the_filter():
    t = summaries()['blur']
    assert all(5*a < b for s in spaces for a, b in zip(t[s]['student'], t[s]['best sampler']))
    assert all(a < b < 2.4*a for s in spaces for a, b in zip(t[s]['student'], t[s]['lmmse']))


def test_saturation_student_wins_by_two_and_by_four():
    t = summaries()['saturation']
    assert all(2 < b/a < 2.4 for a, b in zip(t['classifier']['student'], t['classifier']['best sampler']))
    assert all(4.4 < b/a < 5.1 for s in ('random', 'pca')
               for a, b in zip(t[s]['student'], t[s]['best sampler']))
    assert wins(t, 'corrupted', 'classifier') == 3


def test_quickstart_student_wins_ten_seeds():
    "And the teacher of equal computation wins the classifier's space alone"
    three, seven = quickstarts()
    assert all(wins(three, 'best sampler', s) == 3 and wins(seven, 'best sampler', s) == 7
               and wins(three, 'gaussian', 'classifier') == 3 and wins(seven, 'gaussian', 'classifier') == 7
               for s in spaces)
    assert [wins(three, 'equal compute', s) for s in spaces] == [0, 3, 3]
    gain = lambda t: [1 - a/b for a, b in zip(t['classifier']['student'], t['classifier']['best sampler'])]
    assert all(round(100*low) == a and round(100*high) == b
               for (low, high), a, b in (((min(gain(three)), max(gain(three))), 4, 28),
                                         ((min(gain(seven)), max(gain(seven))), 2, 25)))


def test_without_dropout_the_classifier_is_split():
    seeds, = told('41_digits', 'without_dropout')
    pairs = {s: [found[s] for found in seeds] for s in spaces}
    assert len(seeds) == 6 and [sum(b < a for a, b in pairs[s])
                                for s in spaces] == [3, 6, 6] and all(a > 1.8*b for s in ('random', 'pca')
                                    for a, b in pairs[s])


def test_dropout_makes_the_better_denoiser_and_not_the_better_sampler():
    found, = told('41_digits', 'dropout')
    assert list(found) == ['0.0', '0.1', '0.2', '0.3']
    own, others = ([v[who] for v in found.values()] for who in ('own', 'others'))
    assert own == sorted(own) and others == sorted(others, reverse=True)
    pairs = {s: [v[s] for v in found.values()] for s in spaces}
    assert all(b < a for ps in pairs.values() for a, b in ps) and all(ps[0][0] == min(a for a, _ in ps)
        for ps in pairs.values())
    students = {s: [b for _, b in ps] for s, ps in pairs.items()}
    assert students['classifier'][0] == min(students['classifier']) and all(students[s][0] == max(students[s]) for s in ('random', 'pca'))


def ablations():
    "Means of the three tables: {row: {space: distance}}"
    found = dict(told('42_ablations', 'ablation', 'means'))
    return [found[name] for name in ('noise', 'blur', 'settings')]


def ratio(table, a, b, space): return table[a][space]/table[b][space]


def test_noise_ablation():
    noise, _, _ = ablations()
    students = {k: v for k, v in noise.items() if k.endswith(('SiD', 'DMD', 'SDS'))}
    assert .68 < ratio(noise, 'standard teacher, re-corrupted, SiD', 'standard teacher, not, SiD',
                       'random') < .72
    for s in spaces:
        assert min(students, key=lambda k: students[k][s]) == 'ambient teacher, re-corrupted, SiD'
    observed = noise['observations (noise)']
    assert [observed[s] < min(v[s] for v in students.values()) for s in spaces] == [True, False, True]


def test_blur_ablation():
    _, blur, _ = ablations()
    for who in ('standard', 'ambient'):
        for loss in ('SiD', 'DMD'):
            fell = lambda space: ratio(blur, f'{who} teacher, re-corrupted, {loss}',
                                       f'{who} teacher, not, {loss}', space)
            assert fell('random') < 1/6 and fell('pca') < .27
    assert all(min(v.values()) > 15 for t in ablations()[:2] for k, v in t.items() if k.endswith('SDS'))


@pytest.mark.parametrize('setting, space, low, high', [('fake rate 0.0005', 'random', 1.05, 1.2),
                                                       ('3 fake steps', 'pca', .7, .8),
                                                       ('batch 512, same steps', 'pca', .7, .8),
                                                       ('alpha = 1.2', 'classifier', 1.1, 1.3),
                                                       ('alpha = 1.2', 'random', .95, 1.06),
                                                       ('alpha = 1.2', 'pca', .95, 1.06)])
def test_settings(setting, space, low, high):
    assert low < ratio(ablations()[2], setting, 'base', space) < high


def test_heads_from_scans():
    "Nothing is learnt by heart; whole heads do not help a network of this size; the teacher restores best"
    (inside, outside), = told('45_mri_run', 'training_loss', 'other_loss')
    assert inside < outside < 1.01*inside
    scans, heads = told('45_mri_run', 'fd')
    assert all(heads[s]['teacher of whole heads'] > scans[s]['SENSE'] for s in ('random', 'pca'))
    reached, = told('45_mri_run', 'magnitude_outside')
    assert .8 < reached['its heads']/reached["the student's"] < 1.25
    error = {who: numbers for who, *numbers in told('45_mri_run', 'restored', 'nmse', 'ssim')}
    one, tv, sense, zero = (error[k] for k in ('teacher, one call', 'TV, weight 0.001', 'SENSE',
                                               'zero-filled'))
    assert one[0] < .55*sense[0] and one[0] < .7*tv[0] and tv[0] < sense[0] < zero[0] and one[1] < sense[1]


def test_quickstart_gains_half_in_two_spaces():
    three, _ = quickstarts()
    assert all(b > 2*a for s in ('random', 'pca')
               for a, b in zip(three[s]['student'], three[s]['best sampler'], strict=True))


def test_what_the_classifiers_space_measures():
    three, seven = quickstarts()
    made = ('teacher_full', 'teacher_truncated', 'teacher_in_range', 'student')
    seeds = lambda space, *who: zip(*(three[space][k] for k in who), strict=True)
    assert all(clean > max(rest)
               for clean, *rest in seeds('classifier', 'clean_teacher',
                                         *made)) and all(y < g
                                             for y, g in seeds('classifier', 'corrupted', 'gaussian'))
    assert all(clean < min(rest) for clean, *rest in seeds('pca', 'clean_teacher', 'gaussian', 'lmmse',
        *made)) and all(.9 < a/b < 1.15 for a, b in seeds('random', 'student', 'clean_teacher'))
    gaussian, student, best = (three['pca'][k] + seven['pca'][k]
                               for k in ('gaussian', 'student', 'best sampler'))
    assert all(2*g < b for g, b in zip(gaussian, best, strict=True)) and sum(s < g for s, g in zip(student,
        gaussian, strict=True)) == 2 and all(s < 1.55*g for s, g in zip(student, gaussian))


four = ('mean distance', 'median distance', 'sliced Wasserstein', 'energy distance')


def toys():
    "{row: [mean, median, sliced Wasserstein, energy]} of each table of the toys that has a name"
    found = {name.removesuffix(', mean over three seeds'): rows
             for name, rows in told('40_toys', 'table', 'rows') if name}
    assert len(found) == 6
    return {name: {who: [v[k] for k in four] for who, v in rows.items()} for name, rows in found.items()}


def test_student_of_toys_wins_where_noise_is_large_and_the_curve_is_simple():
    found = toys()
    for name, t in found.items():
        if 'noise' not in name: continue
        longer, mine = [min(t[f'longer teacher, {stop}'][k] for stop in ('full', 'truncated', 'best stop'))
                        for k in (0, 1)], t['student']
        assert (mine[0] < longer[0],
                mine[1] < longer[1]) == (name == 'moons, noise 0.1',)*2 or name == 'roll, noise 0.1' and mine[0] <= longer[0]
    assert all(abs(found[f'roll, noise {s}']['student'][0]/found[f'roll, noise {s}']['longer teacher, truncated'][0] - 1) < .1 for s in (.05, .1))
    (runs, won), = told('40_toys', 'runs', 'wins')
    wins = lambda who: [won[who][k] for k in four]
    assert runs == 12 and wins('teacher, full')[:2] == [12, 12] and wins('teacher, truncated')[:2] == [11,
        11] and wins('teacher, best stop')[:2] == [9, 9]


def test_a_wrong_noise_level_costs_the_student_more():
    found, level = toys(), lambda r: f'assumed noise {r} of the true'
    teacher, student = ({r: found[who][level(r)][0] for r in (.5, .75, 1., 1.25, 1.5)}
                        for who in ('teacher, truncated', 'student'))
    assert min(student, key=student.get) == min(teacher, key=teacher.get) == 1. and all(student[r] < teacher[r] for r in student)
    assert max(student.values()) - student[1.] > max(teacher.values()) - teacher[1.] and all(.8 < student[1 - d]/student[1 + d] < 1.25 for d in (.25, .5))


def test_what_the_classifier_sees():
    found, = told('41_digits', 'classifiers_view')
    row = {(s, who): (v['precision'], v['recall']) for s, rows in found.items() for who, v in rows.items()}
    distance, sure = ({who: v[k] for who, v in found['classifier'].items()} for k in ('distance', 'sure'))
    assert all(.15 < row[s, 'truncated'][1] < .25 and abs(row[s, 'in_range'][1] - row[s, 'student'][1]) < .02
               for s in ('random', 'pca'))
    assert all(r >= .8 for (s, who), (_, r) in row.items() if s == 'classifier'
               and who != 'student, denoised')
    assert all(.87 <= row[s, 'student, denoised'][0] <= .97
               for s in spaces) and all(row[s, 'student, denoised'][1] == .02 for s in ('random', 'pca'))
    assert max(distance, key=distance.get) == min(sure, key=sure.get) == 'clean-trained'


def test_ablations_in_words():
    noise, _, settings = ablations()
    ahead = lambda pair: all(noise[f'{pair}, SiD'][s] < noise[f'{pair}, DMD'][s] for s in spaces)
    assert [ahead(f'{who} teacher, {how}') for who in ('standard', 'ambient') for how in ('re-corrupted', 'not')] == [True, False, True, True]
    teacher = {s: min(noise[f'teacher: ambient, {k}'][s] for k in ('full', 'truncated')) for s in spaces}
    assert [teacher[s] < noise['ambient teacher, re-corrupted, SiD'][s] for s in spaces] == [True, False, False]
    gain = lambda loss, space: ratio(noise, f'standard teacher, re-corrupted, {loss}',
                                     f'standard teacher, not, {loss}', space)
    assert .9 < gain('DMD', 'random') < 1 and min(gain('SiD', 'pca'), gain('DMD', 'pca')) > 1
    assert all(abs(ratio(settings, f'lowest level {k} sigma', 'base', s) - 1) < .06 for k in (.5, 2.5)
               for s in spaces)
    assert 1.05 < ratio(settings, '3 fake steps', 'base', 'classifier') < 1.15 and .9 < ratio(settings,
        '3 fake steps', 'base', 'random') < 1


def test_what_failure_looks_like():
    (data, warned), = told('55_trouble', 'data_rms', 'warnings')
    students, believers = told('55_trouble', 'rows')
    gap, size, near, far = ({who: v[k] for who, v in (students | believers).items()}
                            for k in ('gap', 'size', 'proximal', 'distance'))
    healthy = near['healthy'][1]
    assert gap['healthy'][0] > 9*gap['healthy'][1] and max(gap['fake too slow']) < 1e-4 and near['fake too slow'][1] > near['fake too slow'][0] > 10*healthy
    assert all(gap[k][1] > gap[k][0] for k in ('rate too high',
                                               'SDS')) and max(size['SDS']) < data/4 and size['alpha = 2'][0] > 1.5*data and near['rate too high'][1] > 100*healthy
    assert near['believed 0.2'][1] == min(v[1] for k, v in near.items() if k == 'healthy'
                                          or k.startswith('believed')) and far['believed 0.2'] > 1.8*far['healthy']
    assert min(far, key=far.get).startswith('believed 0.0') and warned == 3
    copied, = told('55_trouble', 'copied')
    assert copied['100'] > .9 and .05 < copied['1797'] < .2
    deviation, = told('55_trouble', 'deviation')
    assert abs(deviation['fresh masks'][0]/deviation['fresh masks'][1]
               - 1) < .05 and deviation['one mask'][0] < .6*deviation['one mask'][1]


def test_small_editions_are_small():
    small = [k for k in recipes() if '-noise-' in k and k.endswith('-small')]
    for k in small:
        assert all(16*getattr(recipe(k), part)['images'] <= getattr(recipe(k.removesuffix('-small')),
            part)['images'] for part in ('train', 'distill'))
    assert 7.5 < recipe('cifar10-noise-0.2').cost()['parameters']/recipe('cifar10-noise-0.2-small').cost()['parameters'] < 9.5 and len(small) > 5
