"""The values that a person reads first."""

import math

import numpy as np
import pytest

from mmyolo_bgpenalty.evaluation.table import class_table, good_parts_table, headline, summary_table

PR = {'pr/precision': 0.9, 'pr/precision_at_0.25': 0.5, 'pr/precision_at_recall_0.6': 0.8, 'pr/recall_at_0.25': 0.25}
PR |= {'pr/fp_per_image_at_0.25': 1.5, 'pr/alarms_per_100_good_at_recall_0.8': 0.125, 'pr/hot/cell_precision': 0.7}
COCO = {'coco/bbox_mAP': np.float32(0.125), 'coco/bbox_mAP_50': 0.5, 'coco/bbox_mAP_75': 0.0, 'coco/time': 'later'}


def test_one_row_per_model_and_one_column_per_value():
    metrics = {f'{role}/{name}': value for role in ('teacher', 'student') for name, value in (COCO | PR).items()}
    metrics['student/coco/bbox_mAP'] = 0.1
    assert summary_table(metrics, 'After epoch 3') == (
        'After epoch 3 (precision, recall and false positives at confidence 0.25)\n'
        '+---------+-------+-------+-----------+--------+---------------------------+----------------------------+\n'
        '|         | mAP   | mAP50 | precision | recall | false positives per image | per 100 good at recall 0.8 |\n'
        '+---------+-------+-------+-----------+--------+---------------------------+----------------------------+\n'
        '| teacher | 0.125 | 0.500 | 0.500     | 0.250  | 1.500                     | 0.125                      |\n'
        '| student | 0.100 | 0.500 | 0.500     | 0.250  | 1.500                     | 0.125                      |\n'
        '+---------+-------+-------+-----------+--------+---------------------------+----------------------------+'
    )


@pytest.mark.parametrize('undefined', [math.nan, math.inf, -1.0, '0.3'])
def test_an_undefined_value_is_a_dash_and_a_column_without_values_is_left_out(undefined):
    metrics = COCO | PR | {'pr/alarms_per_100_good_at_recall_0.8': undefined, 'test/coco/bbox_mAP': undefined}
    metrics['test/coco/bbox_mAP_50'] = 0.75
    *_, first, second, _ = summary_table(metrics, '').splitlines()
    assert first.replace(' ', '') == '|model|0.125|0.500|0.500|0.250|1.500|'
    assert second.replace(' ', '') == '|test|-|0.750|-|-|-|'


CLASSES = {'coco/hot/cell_precision': 0.25, 'coco/crack_precision': 0.5, 'coco/none_precision': math.nan}
CLASSES |= {'pr/hot/cell_precision': 0.9, 'pr/hot/cell_ap': 0.75, 'pr/hot/cell_ap_50': 0.75, 'pr/hot/cell_f1': 0.8}
CLASSES |= {'pr/hot/cell_recall': 0.1, 'pr/hot/cell_recall_at_0.25': 0.625}


def test_the_classes_of_the_first_model_have_a_row_each():
    metrics = {f'{role}/{name}': value for role in ('teacher', 'student') for name, value in (COCO | PR).items()}
    metrics |= {f'teacher/{name}': value for name, value in CLASSES.items()}
    metrics |= {f'student/{name}': 0.125 for name in CLASSES}
    expected = (
        '+----------+-------+-------+----------------+\n'
        '| class    | AP    | AP50  | recall at 0.25 |\n'
        '+----------+-------+-------+----------------+\n'
        '| hot/cell | 0.250 | 0.750 | 0.625          |\n'
        '| crack    | 0.500 | -     | -              |\n'
        '+----------+-------+-------+----------------+'
    )
    assert class_table(metrics, 'Test') == f'Test, by class (teacher)\n{expected}'
    assert class_table(COCO | PR | CLASSES, 'Test') == f'Test, by class\n{expected}'


def test_without_classes_there_is_no_table_of_classes():
    assert class_table(COCO | PR, '') is None and class_table({'mine/images': 4}, '') is None
    strict = {'pr/crack_ap': 0.5, 'pr/crack_ap_75': 0.5, 'pr/crack_recall_at_0.5': 0.25}
    assert class_table(strict, '').splitlines()[2] == '| class | recall at 0.5 |'


@pytest.mark.parametrize('number, more', [(20, 0), (21, 1), (203, 183)])
def test_of_many_classes_the_first_20_are_shown(number, more):
    lines = class_table({f'coco/class {k}_precision': k / 1000 for k in range(number)}, '').splitlines()
    rows = [line for line in lines if line.startswith('| class ') and 'AP' not in line]
    assert [row.split('|')[1].strip() for row in rows] == [f'class {k}' for k in range(20)]
    left = [f'… {more} more, see metrics.json of `test --out`'] if more else []
    assert [line for line in lines if line.startswith('…')] == left


def alarms(recall, *values, share='0.99'):
    """The figures of a recall, in the order of the table. Without a fifth value there is no prevalence."""
    names = [
        f'{name}_at_{of}recall_{recall}' for of in ('', 'part_') for name in ('alarms_per_100_good', 'good_with_alarm')
    ]
    names += [f'precision_at_recall_{recall}_at_prevalence_{share}']
    return {f'pr/{name}': value for name, value in zip(names, values)}


def test_the_false_alarms_on_good_parts_of_the_first_model():
    figures = alarms('0.6', 1, 0.01, 1, 0.01, 1.0) | alarms('0.7', 4, 0.04, 2, 0.02, 0.5)
    figures |= alarms('0.8', 8, 0.0625, 5, 0.03, 0.125) | alarms('0.9', math.inf, math.inf, math.nan, math.nan, 0.0)
    metrics = {f'teacher/{name}': value for name, value in (COCO | PR | figures).items()}
    metrics |= {f'student/{name}': 0.75 for name in figures}
    head = 'Validation, false alarms on good parts where this share is found'
    for shown, title in ((metrics, f'{head} (teacher)'), (COCO | PR | figures, head)):
        first, _, *lines, _ = good_parts_table(shown, 'Validation').splitlines()
        cells = [[cell.strip() for cell in line.strip('|').split('|')] for line in lines if '--' not in line]
        of, what = ['all objects:', 'all objects:'], ['alarms per 100 good', 'good with alarm']
        assert first == title and cells == [
            ['found', *of, 'defective parts:', 'defective parts:', 'all objects: precision'],
            ['', *what, *what, 'if 0.99 of parts are good'],
            ['0.7', '4.000', '0.040', '2.000', '0.020', '0.500'],
            ['0.8', '8.000', '0.062', '5.000', '0.030', '0.125'],
            ['0.9', 'not reached', 'not reached', 'unknown', 'unknown', '0.000'],
        ]


def test_false_alarms_without_a_prevalence_and_of_other_recalls():
    *_, row, _ = good_parts_table(alarms('0.5', 1, 1, 1, 1) | alarms('0.9', 4, 0.5, 2, 0.25), '').splitlines()
    assert row.replace(' ', '') == '|0.9|4.000|0.500|2.000|0.250|'
    for without in (
        COCO,
        {name: value for name, value in PR.items() if 'alarms' not in name},
        alarms('0.5', 1, 1, 1, 1),
    ):
        assert good_parts_table(without, '') is None


def test_the_names_of_other_metrics_and_of_the_model():
    voc = {'pascal_voc/mAP': 0.5, 'pascal_voc/AP50': 0.75, 'pascal_voc/AP60': 0.1}
    assert headline(voc, 'teacher') == {'teacher': {'mAP': 0.5, 'mAP50': 0.75}}
    masks = {'student/segm_mAP': 0.25, 'coco/bbox_mAP': 0.5, 'coco/segm_mAP': 0.75}
    assert headline(masks) == {'student': {'mAP': 0.25}, 'model': {'mAP': 0.5}}
    assert headline({'proposal/AR@100': 0.5}) == {} and summary_table({'proposal/AR@100': 0.5}, '') is None
