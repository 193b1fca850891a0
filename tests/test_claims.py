"""What pages say about cells that take too long to run here: the sentences, against the stored outputs.

Whoever runs such a cell again with another result learns which sentence has become wrong.
"""
import json
import re
from pathlib import Path

import pytest

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
