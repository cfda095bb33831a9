"""The tables of README, of the results and of metafile.yml have the figures of the runs in docs/results/data/."""

import json
import re
import statistics

import pytest
import yaml

from mmyolo_bgpenalty.cli.ablation.report import compare
from tests.docs.test_tables import tables  # it finds docs/results/data
from tests.helpers.tiny import ROOT

RUNS = tables.read_runs()
GOOD = tables.read_runs(tables.RUNS.with_name('good_parts.csv'))


def rows_of(page):
    """The rows of all tables of a page, as cells, by what is in their first cell."""
    lines = re.findall(r'^\| (.+) \|$', (ROOT / page).read_text(encoding='utf-8'), re.M)
    cells = (line.split(' | ') for line in lines)
    return [(first.replace('**', ''), rest) for first, *rest in cells]


README = {
    '40 labels': ('labels only, bf16', '1170'),
    '40 labels and 360 unlabeled boards': ('360 unlabeled boards, bf16', '1170'),
    '40 labels and 400 good boards': ('400 good boards, misfires first, lambda 0.3 on them only, bf16', '1170'),
    'all 400 labels': ('all labels, bf16', '1200'),
}


@pytest.mark.parametrize('name', README)
def test_a_row_of_readme_is_the_mean_of_its_runs(name):
    variant, iterations = README[name]
    wanted = dict(set='DeepPCB', variant=variant, iterations=iterations, images='test')
    runs = [run for run in GOOD if all(run[key] == value for key, value in wanted.items())]
    assert len({run['seed'] for run in runs}) == len(runs) > 0
    metrics = {'mAP': 3, 'precision_at_recall_0.8': 3, 'alarms_at_recall_0.8': 0}
    for text, (metric, digits) in zip(dict(rows_of('README.md'))[name], metrics.items(), strict=True):
        assert text == f'{statistics.mean(float(run[metric]) for run in runs):.{digits}f}', metric


SOFT, MOSAIC = 'recipe, soft targets', ', mosaic and MixUp of labeled'
RECIPE, PENALTY = 'recipe, share 0.6, burn-in 1080', 'recipe, penalty λ=0.3'
AT_RECALL = ('precision_at_recall_0.7', 'precision_at_recall_0.8')
SOLAR = dict(set=['solar'], iterations=['5400'], images=['test'])
BCCD = dict(set=['BCCD'], iterations=['1920'], images=['test'], seed=['1', '2', '3'])
OF_PENALTY = ('mAP', 'mAP_50', 'precision_at_recall_0.6', *AT_RECALL, 'recall_at_0.25', 'fp_per_image_at_0.25')
# Page, runs, metrics, variants, the first one is the baseline; and the first cells of the rows, None if it has no row.
TABLES = [
    (
        *('results/summary', SOLAR, ('mAP', 'mAP_50', *AT_RECALL, 'recall_at_0.25', 'fp_per_image_at_0.25')),
        {
            'labels only, mosaic and MixUp': 'labels only',
            f'{SOFT}{MOSAIC}, penalty λ=0.3': 'as shipped: unlabeled images, λ = 0.3',
            f'{SOFT}{MOSAIC}': 'the same, λ = 0',
            'all labels, mosaic and MixUp': 'all 600 labels',
            'all labels': 'all 600 labels, single images in place of mosaics',
        },
    ),
    (
        *('results/summary', SOLAR, ('mAP', 'mAP_50', *AT_RECALL, 'precision_at_0.25', 'recall_at_0.25')),
        {
            'labels only': 'labels only',
            SOFT: 'unlabeled images',
            f'{SOFT}, known empty': 'unlabeled images, 142 of them named in `known_empty`',
            'all labels': 'all 600 labels',
        },
    ),
    (
        *('results/summary', BCCD),
        ('mAP', 'mAP_50', 'AP_class_1', 'AP_class_2', 'AP_class_3', AT_RECALL[0], *OF_PENALTY[-2:]),
        {
            'labels only': 'labels only',
            PENALTY: 'as shipped: unlabeled images, λ = 0.3',
            'recipe, share 0.6, burn-in 384': 'the same, λ = 0',
            'labels only, mosaic and MixUp': 'labels only, mosaics',
            'all labels': 'all 219 labels',
        },
    ),
    (
        *('results/penalty', SOLAR, OF_PENALTY),
        {f'{SOFT}{MOSAIC}': None, f'{SOFT}{MOSAIC}, penalty λ=0.3': 'λ = 0.3, as shipped'},
    ),
    (*('results/penalty', SOLAR, OF_PENALTY), {SOFT: None, f'{SOFT}, penalty λ=0.3': 'λ = 0.3, single images'}),
    (
        *('results/penalty', SOLAR, OF_PENALTY),
        {
            RECIPE: None,
            PENALTY: 'λ = 0.3, without soft targets',
            'recipe, penalty λ=1': 'λ = 1, without soft targets',
            'recipe, penalty λ=1, unlabeled too': 'λ = 1, without soft targets, on unlabeled images, too',
        },
    ),
    (
        *('results/penalty', SOLAR, OF_PENALTY),
        {'labels only': None, 'labels only, penalty λ=1': 'λ = 1, without unlabeled images'},
    ),
    (
        *('results/penalty', BCCD, OF_PENALTY),
        {'recipe, share 0.6, burn-in 384': None, PENALTY: 'λ = 0.3 (shipped), test'},
    ),
    (
        *('results/penalty', BCCD | dict(images=['held out']), OF_PENALTY),
        {'recipe, share 0.6, burn-in 384': None, PENALTY: 'held out'},
    ),
]


@pytest.mark.parametrize('page, runs, metrics, variants', TABLES, ids=lambda value: value if type(value) is str else '')
def test_a_table_of_the_results_has_the_figures_of_its_runs(page, runs, metrics, variants):
    lines = tables.table(RUNS, list(variants), metrics, nms=['0.5'], session=tables.SESSIONS, **runs)[2:]
    shown = rows_of(f'docs/{page}.md')
    for line, (variant, name) in zip(lines, variants.items(), strict=True):
        _, number, *cells = line[2:-2].split(' | ')
        if name is None:
            continue
        found = [[cell.partition(' of ')[0] for cell in rest] for first, rest in shown if first == name]
        assert cells in [row[-len(cells) :] for row in found], (variant, name)
        (row,) = [row for row in found if row[-len(cells) :] == cells]
        assert row[: -len(cells)] in ([], [number])


@pytest.mark.parametrize('place', range(3))
def test_the_metafile_names_configs_and_their_figures(place):
    content = yaml.safe_load((ROOT / 'configs/metafile.yml').read_text(encoding='utf-8'))
    model = content['Models'][place]
    shipped = f'{SOFT}{MOSAIC}, penalty λ=0.3'
    runs, variant, wanted = [
        (RUNS, shipped, SOLAR),
        (RUNS, PENALTY, BCCD),
        (GOOD, README['40 labels and 400 good boards'][0], dict(set=['DeepPCB'], iterations=['1170'], images=['test'])),
    ][place]
    values = tables.values_of(runs, 'mAP', variant=[variant], nms=['0.5'], **wanted).values()
    assert (ROOT / model['Config']).is_file() and len(values) == (3, 9, 5)[place]
    (result,) = model['Results']
    assert result['Metrics']['box AP'] == pytest.approx(100 * statistics.mean(values), abs=0.051)
    assert model['Metadata']['Iterations'] == int(wanted['iterations'][0])


def test_the_curve_of_lambda_has_the_figures_of_its_runs():
    rows = dict(rows_of('docs/results/penalty.md'))
    wanted = dict(set=['BCCD'], iterations=['1920'], nms=['0.5'], fold=['1'], seed=['1'], session=tables.SESSIONS)
    metrics = {
        'precision at recall 0.7': 'precision_at_recall_0.7',
        'mAP': 'mAP',
        'recall at confidence 0.25': 'recall_at_0.25',
    }
    for name, metric in metrics.items():
        for weight, cell in zip(rows['λ'], rows[name], strict=True):
            differences = []
            for images in ('test', 'held out'):
                base, own = (
                    tables.values_of(RUNS, metric, variant=[variant], images=[images], **wanted)['1', '1']
                    for variant in ('recipe, share 0.6, burn-in 384', f'recipe, penalty λ={weight}')
                )
                differences.append(f'{own - base:+.3f}'.replace('-', '−'))
            assert cell == ', '.join(differences), (name, weight)


PUBLISHED = ('coco/bbox_mAP', 'coco/bbox_mAP_50', 'pr/f1', 'pr/precision_at_0.25', 'pr/fp_per_image_at_0.25')


def test_the_ablation_as_published_has_the_figures_of_its_runs():
    """Those of the page are those of ablation.json, and these are computed again from its runs."""
    content = json.loads(tables.RUNS.with_name('ablation.json').read_text(encoding='utf-8'))
    shown = [(name, cells) for name, cells in rows_of('docs/results/penalty.md') if len(cells) == 6]
    shown = {name: cells for name, cells in shown if 'λ=' in name}
    variants = list(dict.fromkeys(run['variant'] for run in content['runs']))
    assert list(shown) == variants
    of_runs = {(row['variant'], row['metric']): row for row in compare(content['runs'], variants)}
    metrics = (*PUBLISHED, 'pr/precision_at_recall_0.7')
    for row in content['table']:
        own = of_runs.get((row['variant'], row['metric']))
        if own:
            values = [row[key] for key in ('mean', 'std', 'difference', 'low', 'high')]
            assert values == pytest.approx([own[key] for key in ('mean', 'std', 'difference', 'low', 'high')])
    for name, cells in shown.items():
        for metric, cell in zip(metrics, cells, strict=True):
            row = of_runs[name, metric]
            text = f'{row["mean"]:.3f} ± {row["std"]:.3f}'
            if name != variants[0]:
                text = f'{row["difference"]:+.3f} [{row["low"]:+.3f}, {row["high"]:+.3f}]'
            assert cell == text.replace('-', '−')


SPEED = {
    'loss, forward and backward': ('loss', 'penalty, to MMYOLO'),
    "the same, to Ultralytics' `v8DetectionLoss` on identical tensors": ('loss', 'penalty, to Ultralytics'),
    "our assigner alone, with the inputs of MMYOLO's": ('assigner', 'to MMYOLO'),
    'peak memory of the loss': ('memory of the loss', 'penalty, to MMYOLO'),
    "supervised step, to MMYOLO's": ('supervised step', 'to MMYOLO'),
    "semi-supervised step, to that of MMDetection's SemiBaseDetector": ('semi step', 'to SemiBaseDetector'),
}


@pytest.mark.parametrize('name', SPEED)
def test_a_row_of_speed_is_that_of_the_benchmark(name):
    rows = json.loads((ROOT / 'docs/results/benchmark.json').read_text(encoding='utf-8'))['rows']
    ratios = [row['ratio']['median'] for row in rows if (row['case'], row['what']) == SPEED[name]]
    assert dict(rows_of('docs/results/speed.md'))[name] == [f'{one:.{2 if one >= 0.1 else 3}f}' for one in ratios]


@pytest.mark.parametrize('other', ['MMYOLO', 'Ultralytics'])
def test_a_row_of_whole_trainings_is_that_of_the_benchmark(other):
    rows = json.loads((ROOT / 'docs/results/benchmark.json').read_text(encoding='utf-8'))['rows']
    (row,) = [row for row in rows if (row['case'], row['what']) == ('training', f'to {other}')]
    speeds = ' and '.join(re.findall(r'\d\.\d\d', row['note']))
    name = dict(MMYOLO="ours, to MMYOLO's", Ultralytics="ours, to Ultralytics'")[other]
    assert dict(rows_of('docs/results/speed.md'))[name] == [f'{row["ratio"]["median"]:.2f}', speeds]


PENALISED = '(focal, positives, lambda 1), bf16'
ARMS = {
    'labels only, bf16': '40 labels only',
    '400 good boards, misfires first, lambda 0.3 on them only, bf16': '400 good boards, as shipped (λ = 0.3)',
    '400 good boards, misfires first, lambda 0.3, bf16': '400 good boards, λ = 0.3 on labeled boards, too',
    '400 good boards, misfires first, bf16': '400 good boards, λ = 0',
    '400 good boards, bf16': '400 good boards, λ = 0, drawn uniformly',
    f'400 good boards, and penalty on them {PENALISED}': (
        '400 good boards, penalty of another form (λ = 1), drawn uniformly'
    ),
    f'400 good boards, penalty in place of the classification loss {PENALISED}': (
        '400 good boards, that penalty in place of their classification loss'
    ),
    '360 unlabeled boards, bf16': '360 unlabeled boards',
    '360 unlabeled and 400 good boards, bf16': '360 unlabeled and 400 good boards',
    'labels only, a tenth more of good boards among them, bf16': '4 good boards in addition, among the 40 labels',
    'all labels, bf16': 'all 400 labels',
    'all labels and 400 good boards, bf16': 'all 400 labels and 400 good boards',
}


def test_the_table_of_good_parts_has_the_figures_of_its_runs():
    at = [f'{name}_at_recall_{recall}' for name in ('precision', 'alarms') for recall in (0.7, 0.8)]
    metrics = ['mAP', 'mAP_50', *at, 'recall_at_0.25', 'alarms_at_0.25']
    where = dict(set=['DeepPCB'], images=['test'], iterations=['1166', '1170', '1200'], nms=['0.5'])
    lines = tables.table(GOOD, list(ARMS), metrics, **where)[2:]
    shown = dict(rows_of('docs/guides/good_parts.md'))
    for line, name in zip(lines, ARMS.values(), strict=True):
        assert line[2:-2].split(' | ')[1:] == shown[name], name
