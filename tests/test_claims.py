"""What pages say about cells that take too long to run here: the sentences, against the stored outputs.

Whoever runs such a cell again with another result learns which sentence has become wrong.
"""
import json
import re
from pathlib import Path

import pytest

from dcd_nb.recipes import recipe, recipes

nbs = Path(__file__).parent.parent/'nbs'
spaces = ('classifier', 'random', 'pca')


def printed(name):
    "What each cell of a page has printed"
    cells = json.loads((nbs/f'{name}.ipynb').read_text(encoding='utf-8'))['cells']
    return [t for c in cells for t in [''.join(''.join(o.get('text', '')) for o in c.get('outputs', []))] if t]


def summaries(name='41_digits'):
    "{corruption: {space: {row: numbers of the seeds}}}"
    return dict(zip(('noise', 'mask', 'blur', 'saturation'), [tables(t) for t in printed(name) if 'half of the digits' in t], strict=True))


def tables(text):
    "{space: {row: numbers of the seeds}} of what `summary` printed"
    found, space = {}, None
    for line in text.splitlines():
        if line.split(';')[0] in spaces: space = found.setdefault(line.split(';')[0], {})
        elif row := re.match(r'    (\S.*?)  +([\d. ]+)$', line): space[row[1]] = [*map(float, row[2].split())]
    return found


def wins(table, opponent, space):
    "For how many seeds is the student nearer?"
    return sum(a < b for a, b in zip(table[space]['student'], table[space][opponent], strict=True))


def test_noise_student_wins_two_spaces_and_two_seeds_of_the_classifiers():
    t = summaries()['noise']
    assert [wins(t, 'best sampler', s) for s in spaces] == [2, 3, 3] and [wins(t, 'equal compute', s) for s in spaces] == [0, 3, 3]
    assert all(2.3 < b/a < 3.5 for s in ('random', 'pca') for a, b in zip(t[s]['student'], t[s]['best sampler']))


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
    assert all(4.4 < b/a < 5.1 for s in ('random', 'pca') for a, b in zip(t[s]['student'], t[s]['best sampler']))
    assert wins(t, 'corrupted', 'classifier') == 3


def test_quickstart_student_wins_ten_seeds():
    "And the teacher of equal computation wins the classifier's space alone"
    three, seven = (tables(t) for t in printed('24_quickstart') if 'half of the digits' in t)
    assert all(wins(three, 'best sampler', s) == 3 and wins(seven, 'best sampler', s) == 7 and wins(three, 'gaussian', 'classifier') == 3 and wins(seven, 'gaussian', 'classifier') == 7 for s in spaces)
    assert [wins(three, 'equal compute', s) for s in spaces] == [0, 3, 3]
    gain = lambda t: [1 - a/b for a, b in zip(t['classifier']['student'], t['classifier']['best sampler'])]
    assert all(round(100*low) == a and round(100*high) == b for (low, high), a, b in (((min(gain(three)), max(gain(three))), 4, 28), ((min(gain(seven)), max(gain(seven))), 2, 25)))


def test_without_dropout_the_classifier_is_split():
    text = next(t for t in printed('41_digits') if t.count('seed ') == 6 and 'classifier' in t)
    pairs = {s: [tuple(map(float, p)) for p in re.findall(rf'{s} ([\d.]+) -> ([\d.]+)', text)] for s in spaces}
    assert [sum(b < a for a, b in pairs[s]) for s in spaces] == [3, 6, 6] and all(a > 1.8*b for s in ('random', 'pca') for a, b in pairs[s])


def test_dropout_makes_the_better_denoiser_and_not_the_better_sampler():
    text = next(t for t in printed('41_digits') if 'loss on its own' in t)
    own, others = (list(map(float, re.findall(rf'{who} ([\d.]+)[,;]', text))) for who in ('its own', 'on others'))
    assert own == sorted(own) and others == sorted(others, reverse=True) and len(own) == 4
    pairs = {s: [tuple(map(float, p)) for p in re.findall(rf'{s} ([\d.]+) -> ([\d.]+)', text)] for s in spaces}
    assert all(b < a for ps in pairs.values() for a, b in ps) and all(ps[0][0] == min(a for a, _ in ps) for ps in pairs.values())
    students = {s: [b for _, b in ps] for s, ps in pairs.items()}
    assert students['classifier'][0] == min(students['classifier']) and all(students[s][0] == max(students[s]) for s in ('random', 'pca'))


def ablations():
    "Means of the three tables: {row: (classifier, random, pca)}"
    row = r'^(.*?\S) +([\d.]+) ± [\d.]+ +([\d.]+) ± [\d.]+ +([\d.]+) ± [\d.]+$'
    return [{m[0]: [*map(float, m[1:])] for m in re.findall(row, text, flags=re.M)} for text in printed('42_ablations') if '±' in text]


def ratio(table, a, b, space): return table[a][spaces.index(space)]/table[b][spaces.index(space)]


def test_noise_ablation():
    noise, _, _ = ablations()
    students = {k: v for k, v in noise.items() if k.endswith(('SiD', 'DMD', 'SDS'))}
    assert .68 < ratio(noise, 'standard teacher, re-corrupted, SiD', 'standard teacher, not, SiD', 'random') < .72
    for i in range(3): assert min(students, key=lambda k: students[k][i]) == 'ambient teacher, re-corrupted, SiD'
    seen = noise['observations (noise)']
    assert [seen[i] < min(v[i] for v in students.values()) for i in range(3)] == [True, False, True]


def test_blur_ablation():
    _, blur, _ = ablations()
    for who in ('standard', 'ambient'):
        for loss in ('SiD', 'DMD'):
            fell = lambda space: ratio(blur, f'{who} teacher, re-corrupted, {loss}', f'{who} teacher, not, {loss}', space)
            assert fell('random') < 1/6 and fell('pca') < .27
    assert all(min(v) > 15 for t in ablations()[:2] for k, v in t.items() if k.endswith('SDS'))


@pytest.mark.parametrize('setting, space, low, high', [('fake rate 0.0005', 'random', 1.05, 1.2), ('3 fake steps', 'pca', .7, .8), ('batch 512, same steps', 'pca', .7, .8),
                                                       ('alpha = 1.2', 'classifier', 1.1, 1.3), ('alpha = 1.2', 'random', .95, 1.06), ('alpha = 1.2', 'pca', .95, 1.06)])
def test_settings(setting, space, low, high): assert low < ratio(ablations()[2], setting, 'base', space) < high


def test_heads_from_scans():
    "Nothing is learnt by heart; whole heads do not help a network of this size; the teacher restores best"
    text = '\n'.join(printed('45_mri_run'))
    seen, unseen = map(float, re.search(r'of the training ([\d.]+), on 500 that it never saw ([\d.]+)', text).groups())
    assert seen < unseen < 1.01*seen
    row = lambda who: [float(v) for v in re.search(rf'^{who} +\d+ +([\d.]+) +([\d.]+)$', text, flags=re.M).groups()]
    assert all(a > b for a, b in zip(row('teacher of whole heads'), row('SENSE'), strict=True))
    theirs, students = map(float, re.findall(r'no head reaches ([\d.]+)', text))
    assert .8 < theirs/students < 1.25
    error = {k: (float(a), float(b)) for k, a, b in re.findall(r'^(\S.*?) +NMSE ([\d.]+), SSIM of magnitudes ([\d.]+)', text, flags=re.M)}
    one, tv, sense, zero = (error[k] for k in ('teacher, one call', 'TV, weight 0.001', 'SENSE', 'zero-filled'))
    assert one[0] < .55*sense[0] and one[0] < .7*tv[0] and tv[0] < sense[0] < zero[0] and one[1] < sense[1]


def test_quickstart_gains_half_in_two_spaces():
    three = tables(next(t for t in printed('24_quickstart') if 'half of the digits' in t))
    assert all(b > 2*a for s in ('random', 'pca') for a, b in zip(three[s]['student'], three[s]['best sampler'], strict=True))


def test_what_the_classifiers_space_measures():
    three, seven = (tables(t) for t in printed('24_quickstart') if 'half of the digits' in t)
    made = ('teacher_full', 'teacher_truncated', 'teacher_in_range', 'student')
    seeds = lambda space, *who: zip(*(three[space][k] for k in who), strict=True)
    assert all(clean > max(rest) for clean, *rest in seeds('classifier', 'clean_teacher', *made)) and all(y < g for y, g in seeds('classifier', 'corrupted', 'gaussian'))
    assert all(clean < min(rest) for clean, *rest in seeds('pca', 'clean_teacher', 'gaussian', 'lmmse', *made)) and all(.9 < a/b < 1.15 for a, b in seeds('random', 'student', 'clean_teacher'))
    gaussian, student, best = (three['pca'][k] + seven['pca'][k] for k in ('gaussian', 'student', 'best sampler'))
    assert all(2*g < b for g, b in zip(gaussian, best, strict=True)) and sum(s < g for s, g in zip(student, gaussian, strict=True)) == 2 and all(s < 1.55*g for s, g in zip(student, gaussian))


def toys():
    "{row: (mean, median, sliced Wasserstein, energy)} of each table of the toys"
    row = r'^(\S.*?)  +([\d.]+) +([\d.]+) +([\d.]+) +([\d.]+)$'
    texts = '\n'.join(printed('40_toys'))
    return {head: {m[0]: [*map(float, m[1:])] for m in re.findall(row, body, flags=re.M)}
            for head, body in re.findall(r'^((?:moons|roll), noise [\d.]+|teacher, truncated|student)(?:, mean over three seeds)?\n((?: .*\n|\S.* [\d.]+\n)+)', texts, flags=re.M)}


def test_student_of_toys_wins_where_noise_is_large_and_the_curve_is_simple():
    found = toys()
    for name, t in found.items():
        if 'noise' not in name: continue
        longer, mine = [min(t[f'longer teacher, {stop}'][k] for stop in ('full', 'truncated', 'best stop')) for k in (0, 1)], t['student']
        assert (mine[0] < longer[0], mine[1] < longer[1]) == (name == 'moons, noise 0.1',)*2 or name == 'roll, noise 0.1' and mine[0] <= longer[0]
    assert all(abs(found[f'roll, noise {s}']['student'][0]/found[f'roll, noise {s}']['longer teacher, truncated'][0] - 1) < .1 for s in (.05, .1))
    said = next(t for t in printed('40_toys') if 'student better than' in t)
    wins = lambda who: [*map(int, re.findall(r'(\d+)/12', re.search(rf'{who} +(.*)', said)[1]))]
    assert wins('teacher, full')[:2] == [12, 12] and wins('teacher, truncated')[:2] == [11, 11] and wins('teacher, best stop')[:2] == [9, 9]


def test_a_wrong_noise_level_costs_the_student_more():
    found, level = toys(), lambda r: f'assumed noise {r} of the true'
    teacher, student = ({r: found[who][level(r)][0] for r in (.5, .75, 1., 1.25, 1.5)} for who in ('teacher, truncated', 'student'))
    assert min(student, key=student.get) == min(teacher, key=teacher.get) == 1. and all(student[r] < teacher[r] for r in student)
    assert max(student.values()) - student[1.] > max(teacher.values()) - teacher[1.] and all(.8 < student[1 - d]/student[1 + d] < 1.25 for d in (.25, .5))


def test_what_the_classifier_sees():
    text = next(t for t in printed('41_digits') if 'student, denoised' in t)
    row = {(s, who): (float(p), float(r)) for s, who, p, r in re.findall(r'^(\w+) +(\S.*?)  +distance [\d.]+, precision ([\d.]+), recall ([\d.]+)', text, flags=re.M)}
    distance = {who: float(d) for who, d in re.findall(r'^classifier +(\S.*?)  +distance ([\d.]+)', text, flags=re.M)}
    sure = {who: float(p) for who, p in re.findall(r'^classifier +(\S.*?)  +.*sure ([\d.]+)', text, flags=re.M)}
    assert all(.15 < row[s, 'truncated'][1] < .25 and abs(row[s, 'in_range'][1] - row[s, 'student'][1]) < .02 for s in ('random', 'pca'))
    assert all(r >= .8 for (s, who), (_, r) in row.items() if s == 'classifier' and who != 'student, denoised')
    assert all(.87 <= row[s, 'student, denoised'][0] <= .97 for s in spaces) and all(row[s, 'student, denoised'][1] == .02 for s in ('random', 'pca'))
    assert max(distance, key=distance.get) == min(sure, key=sure.get) == 'clean-trained'


def test_ablations_in_words():
    noise, _, settings = ablations()
    ahead = lambda pair: all(a < b for a, b in zip(noise[f'{pair}, SiD'], noise[f'{pair}, DMD'], strict=True))
    assert [ahead(f'{who} teacher, {how}') for who in ('standard', 'ambient') for how in ('re-corrupted', 'not')] == [True, False, True, True]
    teacher = [min(noise[f'teacher: ambient, {k}'][i] for k in ('full', 'truncated')) for i in range(3)]
    assert [a < b for a, b in zip(teacher, noise['ambient teacher, re-corrupted, SiD'])] == [True, False, False]
    gain = lambda loss, space: ratio(noise, f'standard teacher, re-corrupted, {loss}', f'standard teacher, not, {loss}', space)
    assert .9 < gain('DMD', 'random') < 1 and min(gain('SiD', 'pca'), gain('DMD', 'pca')) > 1
    assert all(abs(ratio(settings, f'lowest level {k} sigma', 'base', s) - 1) < .06 for k in (.5, 2.5) for s in spaces)
    assert 1.05 < ratio(settings, '3 fake steps', 'base', 'classifier') < 1.15 and .9 < ratio(settings, '3 fake steps', 'base', 'random') < 1


def test_what_failure_looks_like():
    text = '\n'.join(printed('55_trouble'))
    row = {name.strip(): [*map(float, v)] for name, *v in re.findall(r'^(\w.{13}) *([\d.]+) -> +([\d.]+) +([\d.]+) -> +([\d.]+) +([\d.]+) +([\d.]+) +([\d.]+)$', text, flags=re.M)}
    data = float(re.search(r'data: root mean square ([\d.]+)', text)[1])
    gap, size, near, far = ({k: v[part] for k, v in row.items()} for part in (slice(0, 2), slice(2, 4), slice(4, 6), 6))
    healthy = near['healthy'][1]
    assert gap['healthy'][0] > 9*gap['healthy'][1] and max(gap['fake too slow']) < 1e-4 and near['fake too slow'][1] > near['fake too slow'][0] > 10*healthy
    assert all(gap[k][1] > gap[k][0] for k in ('rate too high', 'SDS')) and max(size['SDS']) < data/4 and size['alpha = 2'][0] > 1.5*data and near['rate too high'][1] > 100*healthy
    assert near['believed 0.2'][1] == min(v[1] for k, v in near.items() if k == 'healthy' or k.startswith('believed')) and far['believed 0.2'] > 1.8*far['healthy']
    assert min(far, key=far.get).startswith('believed 0.0') and text.count('said: ') == 3
    few, all_of_them = map(int, re.findall(r'to each other: (\d+)%', text))
    assert few > 90 and 5 < all_of_them < 20
    deviation = {k: [*map(float, v)] for k, *v in re.findall(r'^(fresh masks|one mask) .*hides ([\d.]+), of the others ([\d.]+)', text, flags=re.M)}
    assert abs(deviation['fresh masks'][0]/deviation['fresh masks'][1] - 1) < .05 and deviation['one mask'][0] < .6*deviation['one mask'][1]


def test_small_editions_are_small():
    small = [k for k in recipes() if '-noise-' in k and k.endswith('-small')]
    for k in small: assert all(16*getattr(recipe(k), part)['images'] <= getattr(recipe(k.removesuffix('-small')), part)['images'] for part in ('train', 'distill'))
    assert 7.5 < recipe('cifar10-noise-0.2').cost()['parameters']/recipe('cifar10-noise-0.2-small').cost()['parameters'] < 9.5 and len(small) > 5
