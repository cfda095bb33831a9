"""The figures in the sentences of README and of the results are those of the runs in docs/results/data/.

A claim is a part of a text with ``{}`` for each figure, and the figures, computed from the runs. A figure that no claim
has, and that is no fact of the set-up, fails: a new figure needs a claim.
"""

import re
import statistics

import pytest

from mmyolo_bgpenalty.cli.ablation.comparison import paired_difference
from tests.docs.test_figures import GOOD, MOSAIC, PENALTY, RECIPE, RUNS, SOFT, tables
from tests.helpers.tiny import ROOT

SOLAR = dict(set=['solar'], iterations=['5400'], images=['test'], nms=['0.5'], session=tables.SESSIONS)
BCCD = dict(SOLAR, set=['BCCD'], iterations=['1920'], seed=['1', '2', '3'])
HELD_OUT = dict(BCCD, images=['held out'])
LARGE = dict(BCCD, set=['BCCD, YOLOv8-s at 640'], iterations=['1440'], seed=['1'])
PANELS = dict(set=['solar'], iterations=['1170', '1215'], images=['test'])
PCB = dict(set=['DeepPCB'], iterations=['1170', '1200'], images=['test'])
THREE = dict(PCB, seed=['1', '2', '3'])  # labels only and good boards as shipped have five seeds
LABELED, BOARDS = 'labels only, bf16', '400 good boards, misfires first'
ON_BOARDS, ON_ALL = f'{BOARDS}, lambda 0.3 on them only, bf16', f'{BOARDS}, lambda 0.3, bf16'
SHIPPED, ZERO, KNOWN = f'{SOFT}{MOSAIC}, penalty λ=0.3', f'{SOFT}{MOSAIC}', f'{SOFT}, known empty'
LABELS, MOSAICS, ALL, ALL_MOSAICS = (
    *('labels only', 'labels only, mosaic and MixUp', 'all labels', 'all labels, mosaic and MixUp'),
)
OF_BCCD = 'recipe, share 0.6, burn-in 384'
AT_7, AT_8, FALSE = 'precision_at_recall_0.7', 'precision_at_recall_0.8', 'fp_per_image_at_0.25'
ALARMS = 'alarms_at_recall_0.8'


def values(variant, metric, where, runs=RUNS):
    return tables.values_of(runs, metric, variant=[variant], **where)


def mean(variant, metric, where, runs=RUNS):
    return statistics.mean(values(variant, metric, where, runs).values())


def change(variant, baseline, metric, where, runs=RUNS):
    """The mean difference of two variants, paired by fold and seed, and its 95 % interval."""
    found = paired_difference(values(variant, metric, where, runs), values(baseline, metric, where, runs))
    return [found.mean, *(found.interval or ())]


def shares(variant, baseline, whole, metric, where):
    """What ``variant`` gains over ``baseline``, of what ``whole`` gains, in %: in the mean, and by seed."""
    part, base, full = (values(name, metric, where) for name in (variant, baseline, whole))
    gains = [(part[key] - base[key], full[key] - base[key]) for key in sorted(base) if key in part and key in full]
    total = sum(own for own, _ in gains) / sum(all_ for _, all_ in gains)
    return [100 * total, *(100 * own / all_ for own, all_ in gains)]


def points(*numbers):
    return [100 * number for number in numbers]


def share_of_bccd(variant, baseline, where):
    """The gain of ``variant`` over ``baseline``, of the gain of all labels over single labeled images, in %."""
    return 100 * change(variant, baseline, 'mAP', where)[0] / change(ALL, baseline, 'mAP', where)[0]


SUMMARY = [
    (
        '{:.3f} on the solar set and {:.3f} on BCCD',
        [change(SHIPPED, MOSAICS, 'mAP', SOLAR)[0], change(PENALTY, LABELS, 'mAP', BCCD)[0]],
    ),
    (
        'about twice as much, {:.3f} and {:.3f}.',
        [change(ALL, MOSAICS, 'mAP', SOLAR)[0], change(ALL, LABELS, 'mAP', BCCD)[0]],
    ),
    ('precision at recall 0.8 rises by {:.1f} points', points(change(SHIPPED, MOSAICS, AT_8, SOLAR)[0])),
    (
        'Without these losses they gain {:.3f} in 1,170 iterations',
        change('360 unlabeled boards, bf16', LABELED, 'mAP', PCB, GOOD)[:1],
    ),
    (
        'On the solar set they gain {:.3f} [{:+.3f}, {:+.3f}] in 1,215 iterations',
        change('540 unlabeled panels, bf16', 'labels only, bf16', 'mAP', PANELS, GOOD),
    ),
    (
        'From COCO weights they gain {:.3f} on DeepPCB',
        change(LABELED, 'labels only, without mosaics, bf16', 'mAP', PCB, GOOD)[:1],
    ),
    (
        'gain {:.3f} mAP. Precision rises by {:.0f} points at recall 0.7 and by {:.1f} points at recall 0.8',
        [
            change(SHIPPED, MOSAICS, 'mAP', SOLAR)[0],
            *points(change(SHIPPED, MOSAICS, AT_7, SOLAR)[0], change(SHIPPED, MOSAICS, AT_8, SOLAR)[0]),
        ],
    ),
    (
        'AP50 rises by {:.3f} for hot strings and for cracks. For hot cells it stays ({:+.3f} [{:+.3f}, {:+.3f}])',
        [change(SHIPPED, MOSAICS, 'AP50_class_2', SOLAR)[0], *change(SHIPPED, MOSAICS, 'AP50_class_1', SOLAR)],
    ),
    (
        'gain {:.0f} % of what the other labels gain with mosaics ({:.0f}, {:.0f} and {:.0f} % by seed), and',
        shares(ZERO, MOSAICS, ALL_MOSAICS, 'mAP', SOLAR),
    ),
    ('{:.0f} % of what they gain with single images', shares(ZERO, MOSAICS, ALL, 'mAP', SOLAR)[:1]),
    (
        'mosaics gain {:.3f}, {:.3f} and {:.3f} mAP',
        [
            values(MOSAICS, 'mAP', SOLAR)[key] - value
            for key, value in sorted(values(LABELS, 'mAP', SOLAR).items())
            if key in values(MOSAICS, 'mAP', SOLAR)
        ],
    ),
    (
        '{:.0f} % of the mAP that their labels gain ({:.0f}, {:.0f} and {:.0f} % by seed), ',
        shares(SOFT, LABELS, ALL, 'mAP', SOLAR),
    ),
    (
        '{:.0f} points of precision at recall 0.7 and {:.0f} points at 0.8.',
        points(change(SOFT, LABELS, AT_7, SOLAR)[0], change(SOFT, LABELS, AT_8, SOLAR)[0]),
    ),
    (
        'AP50 rises by {:.3f} for hot strings and by {:.3f} for cracks. For hot cells it does not rise '
        '({:+.3f} [{:+.3f}, {:+.3f}])',
        [
            *(change(SOFT, LABELS, f'AP50_class_{number}', SOLAR)[0] for number in (2, 3)),
            *change(SOFT, LABELS, 'AP50_class_1', SOLAR),
        ],
    ),
    ('precision at recall 0.8 rises by {:.0f} points. At', points(change(KNOWN, SOFT, AT_8, SOLAR)[0])),
    (
        '({:.3f} [{:.3f}, {:.3f}] of {:.3f} per image)',
        [
            *change(SOFT, KNOWN, FALSE, SOLAR),  # a fall
            mean(SOFT, FALSE, SOLAR),
        ],
    ),
    ('gains {:.0f} % of what the labels of these images gain', [share_of_bccd(PENALTY, LABELS, BCCD)]),
    ('With λ = 0 it gains {:.0f} %.', [share_of_bccd(OF_BCCD, LABELS, BCCD)]),
    (
        'On the images held out these shares are {:.0f} and {:.0f} %.',
        [share_of_bccd(name, LABELS, HELD_OUT) for name in (PENALTY, OF_BCCD)],
    ),
    (
        'the shares are {:.0f} and {:.0f} % (held out {:.0f} and {:.0f} %)',
        [share_of_bccd(name, MOSAICS, where) for where in (BCCD, HELD_OUT) for name in (PENALTY, OF_BCCD)],
    ),
    (
        'AP50 of Platelets rises by {:.3f} [{:.3f}, {:.3f}]. AP50 of WBC and RBC stays ({:+.3f} [{:+.3f}, {:+.3f}], '
        '{:+.3f} [{:+.3f}, {:+.3f}])',
        [one for number in (3, 2, 1) for one in change(PENALTY, LABELS, f'AP50_class_{number}', BCCD)],
    ),
    (
        '({:+.3f} [{:+.3f}, {:+.3f}], 3 folds). Its AP50 of RBC fell by {:.3f}',
        [
            *change('recipe, share 0.6, burn-in 288', LABELS, 'mAP', LARGE),
            -change('recipe, share 0.6, burn-in 288', LABELS, 'AP50_class_1', LARGE)[0],
        ],
    ),
]
OF_PENALTY = [
    (
        '{:.0f} to {:.0f} % of the false positives at confidence 0.25',
        [
            -100 * change(PENALTY, OF_BCCD, FALSE, BCCD)[0] / mean(OF_BCCD, FALSE, BCCD),
            -100 * change(SHIPPED, ZERO, FALSE, SOLAR)[0] / mean(ZERO, FALSE, SOLAR),
        ],
    ),
    ('"Of {:.3f}" in the last', [mean(ZERO, FALSE, SOLAR)]),
    ('loss alone gains {:.1f} points', points(change('recipe, true background', RECIPE, AT_7, SOLAR)[0])),
    (
        'The penalty on all images changes this by {:+.1f}',
        points(
            change('recipe, true background, penalty λ=1, unlabeled too', 'recipe, true background', AT_7, SOLAR)[0]
        ),
    ),
    ('precision at recall 0.8 rises by {:.1f} points', points(change(KNOWN, SOFT, AT_8, SOLAR)[0])),
    (
        'the false alarms per 100 good boards at recall 0.8 from {:.0f} to {:.0f} ({:+.0f} [{:+.0f}, {:+.0f}])',
        [
            *(mean(name, ALARMS, PCB, GOOD) for name in (f'{BOARDS}, bf16', ON_BOARDS)),
            *change(ON_BOARDS, f'{BOARDS}, bf16', ALARMS, PCB, GOOD),
        ],
    ),
    (
        'On labeled boards, too, it leaves {:.0f}.',
        [mean(ON_ALL, ALARMS, PCB, GOOD)],
    ),
    (
        'takes {:.0f} % of the false alarms at recall 0.8. The penalty in its place takes {:.0f} %, and both together '
        'take {:.0f} %',
        [
            100 * (1 - mean(f'400 good boards{how}, bf16', ALARMS, THREE, GOOD) / mean(LABELED, ALARMS, THREE, GOOD))
            for how in (
                '',
                ', penalty in place of the classification loss (focal, positives, lambda 1)',
                ', and penalty on them (focal, positives, lambda 1)',
            )
        ],
    ),
]
README = [
    (
        'the penalty takes the alarms of the table from {:.0f} to {:.0f}',
        [mean(name, ALARMS, PCB, GOOD) for name in (f'{BOARDS}, bf16', ON_BOARDS)],
    ),
    (
        'All labels together with good boards have {:.3f}, {:.3f} and {:.0f}',
        [
            mean('all labels and 400 good boards, bf16', name, PCB, GOOD)
            for name in ('mAP', AT_8, 'alarms_at_recall_0.8')
        ],
    ),
    (
        'unlabeled pictures gain {:.3f} to {:.3f} mAP',
        sorted([change(SHIPPED, MOSAICS, 'mAP', SOLAR)[0], change(PENALTY, LABELS, 'mAP', BCCD)[0]]),
    ),
]
CLAIMS = {'README': README, 'docs/results/summary': SUMMARY, 'docs/results/penalty': OF_PENALTY}
# Figures of the set-up. Figures of lab notes, whose runs have no line in the data, need only occur in the note.
FACTS = {
    'README': {'80', '3.10', '3.13', '2106.09018'},
    'docs/results/summary': {'0.25', '80', '95', '2.13'},
    'docs/results/penalty': {'0.25', '95', '2.13', '0.1'},
}
NOTES = {
    'docs/results/summary': [
        ('10_coco_weights', 'On BCCD they gain 0.012 to 0.019 mAP'),
        ('10_coco_weights', 'they lose 0.019 to 0.040 in 1,170 iterations'),
        ('10_coco_weights', '0.007 to 0.039 in the 2,700'),
        ('05_recipe', 'mAP would rise by 0.038'),
        ('05_recipe', 'it would rise by 0.047'),
    ],
}
NUMBER = re.compile(r'[+−]?\d+\.\d{2,}|\d+(?:\.\d+)?(?= (?:%|points?\b))')


def text_of(page, whole=False):
    """The sentences of a page in one line, without code, and without tables and their signs."""
    text = (ROOT / f'{page}.md').read_text(encoding='utf-8')
    if whole:
        return text.replace('+', ' ')
    return ' '.join(re.sub(r'```.*?```|^\|.*?$', '', text, flags=re.S | re.M).split())


def stated(claim):
    template, figures = claim
    return re.sub(r'-(?=\d)', '−', template.format(*figures))


@pytest.mark.parametrize('page, claim', [(page, claim) for page, claims in CLAIMS.items() for claim in claims], ids=str)
def test_a_figure_is_that_of_its_runs(page, claim):
    assert claim[0].count('{') == len(claim[1])
    assert stated(claim) in text_of(page)


@pytest.mark.parametrize('page', CLAIMS)
def test_every_figure_has_a_source(page):
    text = text_of(page)
    for note, part in NOTES.get(page, []):
        assert set(NUMBER.findall(part)) <= set(NUMBER.findall(text_of(f'docs/lab_notes/{note}', whole=True)))
    for part in [*map(stated, CLAIMS[page]), *(part for _, part in NOTES.get(page, []))]:
        assert part in text
        text = text.replace(part, '')
    assert set(NUMBER.findall(text)) <= FACTS[page]


def test_the_parts_of_the_recipe_have_figures_of_the_lab_notes():
    """Each figure of "What each part gains" occurs in a lab note, or is a value of a run."""
    page = (ROOT / 'docs/results/summary.md').read_text(encoding='utf-8')
    rows = re.findall(r'^\| .+? \| (.+) \| .+ \|$', page.partition('## What each part gains')[2], re.M)[1:]
    notes = ' '.join(note.read_text(encoding='utf-8') for note in (ROOT / 'docs/lab_notes').glob('*.md'))
    known = {
        f'{mean("labels only, empty images added", "mAP", SOLAR):.3f}',
        *re.findall(r'\d+\.\d{2,}|\d+(?= %)', notes),
    }
    assert len(rows) > 20 and set(re.findall(r'\d+\.\d{2,}|\d+(?= %)', ' '.join(rows))) <= known
