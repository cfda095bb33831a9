"""The command report: its page, in Python and in a browser."""

import json
import math
import re
import shutil
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from mmyolo_bgpenalty.cli.report import report
from mmyolo_bgpenalty.cli.report.plots import COLOURS, TEXT, history_svg, precision_recall_svg, training_history
from mmyolo_bgpenalty.cli.report.sources import read_run
from mmyolo_bgpenalty.evaluation.bootstrap import interval_of
from mmyolo_bgpenalty.evaluation.false_alarms import false_alarm_samples, false_alarms, widened
from mmyolo_bgpenalty.evaluation.judged import HIT, judged
from mmyolo_bgpenalty.evaluation.matching import MISTAKES, match_images
from mmyolo_bgpenalty.evaluation.precision_recall import false_positive_samples, precision_recall, ratio_samples
from mmyolo_bgpenalty.utils.coco_json import read_coco

NASTY = '<script>alert(1)</script>'
CLASSES = ('scratch', NASTY)
SIZE = 200


@pytest.fixture(scope='module')
def results(tmp_path_factory):
    """Two folders like those of `test --out`: 12 images, of which 4 are good, with random boxes near the objects."""
    root = tmp_path_factory.mktemp('report')
    rng = np.random.default_rng(0)
    (root / 'images').mkdir()
    images, annotations, rows = [], [], {'before': [], 'after': []}
    for number in range(12):
        name = f'{number}{"&<b>" if number == 3 else ""}.jpg'
        Image.fromarray(rng.integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8)).save(root / 'images' / name)
        images.append(dict(id=number, file_name=name, width=SIZE, height=SIZE))
        side = 30 if number % 2 else 34  # small and medium boxes
        many = 0 if number < 4 else 3
        objects = [(*rng.integers(0, 150, 2), side, side, int(rng.integers(1, 3))) for _ in range(many)]
        for x, y, width, height, category in objects:
            annotations.append(
                dict(id=len(annotations) + 1, image_id=number, category_id=category, iscrowd=0, area=900)
                | dict(bbox=[int(x), int(y), width, height])
            )
        false = [(*rng.integers(0, 150, 2), 30, 30, int(rng.integers(1, 3))) for _ in range(3)]
        for run, share in (('before', 1.0), ('after', 0.4)):
            for x, y, width, height, category in [*objects, *false]:
                score = float(
                    np.float32(rng.uniform(0.02, 0.99) * (1 if (x, y) in {o[:2] for o in objects} else share))
                )
                box = [float(x) + 2, float(y), width, height]
                rows[run].append(dict(image_id=number, bbox=box, score=score, category_id=category))
    categories = [dict(id=i + 1, name=name) for i, name in enumerate(CLASSES)]
    content = dict(images=images, annotations=annotations, categories=categories)
    (root / 'test.json').write_text(json.dumps(content))
    for run, predictions in rows.items():
        (root / run).mkdir()
        (root / run / 'test.bbox.json').write_text(json.dumps(predictions))
        tested = dict(ann_file=f'{root}/test.json', classes=CLASSES, iou_thr=0.5, score_thr=0.25)
        tested['checkpoint'] = f'{root}/work/{run}/epoch_2.pth'
        tested['images'] = [[image['id'], f'{root}/images/{image["file_name"]}'] for image in images]
        (root / run / 'tested.json').write_text(json.dumps(tested))
    log = root / 'work/after/1/vis_data/scalars.json'
    log.parent.mkdir(parents=True)
    log.write_text('{"loss": 3.0, "iter": 10}\n{"loss": 2.0, "iter": 20}\n{"coco/bbox_mAP": 0.5, "step": 1}\n')
    return root


def content(page):
    """The data in a page."""
    text = re.search(r'<script id="data" type="application/json">(.*?)</script>', page, re.S).group(1)
    return json.loads(text)


@pytest.fixture(scope='module')
def page(results):
    report.main([str(results / 'before'), str(results / 'after'), '--out', str(results / 'report.html')])
    return (results / 'report.html').read_text(encoding='utf-8')


def test_the_page_has_every_mistake_of_both_runs(page, results):
    data = content(page)
    assert [run['name'] for run in data['runs']] == ['before', 'after'] and data['good'] == 4
    for place, name in enumerate(('before', 'after')):
        run = read_run(results / name, name)
        one = judged(run.found, run.source.truth)
        shown = [entry for entry in data['entries'] if entry[0] == place]
        wrong = Counter(entry[1] for entry in shown if entry[1] >= 0)
        expected = Counter(one.kinds[(one.kinds != HIT) & (one.scores >= 0.01)].tolist())
        assert wrong == expected and sum(expected.values()) > 5
        assert sum(entry[1] < 0 for entry in shown) == len(one.object_scores)
        for entry in shown:
            assert entry[7][place] == entry[3] and entry[5] >= 0 and all(-0.1 <= share <= 1.1 for share in entry[6])
    assert data['kinds'] == list(MISTAKES)


def test_key_figures_are_those_of_the_evaluation_with_intervals(page, results):
    runs = content(page)['runs']
    found = [read_run(results / run['name'], run['name']) for run in runs]
    matches = [match_images(zip(run.found, run.source.truth), 2) for run in found]
    recalls = 0.7, 0.8, 0.9
    figures = [precision_recall(one, 0.25)['metrics'] | false_alarms(one, 0.25, recalls) for one in matches]
    samples = [
        ratio_samples(one, 0.25) | false_alarm_samples(one, 0.25, recalls) | false_positive_samples(one, recalls)
        for one in matches
    ]
    named = dict(precision='precision', recall='recall', f1='F1', alarms_per_100_good='false alarms per 100 good parts')
    named |= dict(fp_per_image='false positives per image', good_with_alarm='good parts with an alarm, %')
    places = {'0.25': 'at confidence 0.25'}
    for recall in recalls:
        places[f'recall_{recall}'] = f'at recall {recall} of all objects'
        places[f'part_recall_{recall}'] = f'at recall {recall} of the defective parts'
    keys = [({(where, what): rest for where, what, *rest in run['key']}) for run in runs]
    assert all(key['over all confidences', 'mAP'] == ['–', ''] for key in keys)  # without metrics.json
    compared = 0
    at_a_place = {'0': {'precision', 'recall', 'f1'}, 'r': {'fp_per_image'}, 'p': set()}
    for place, where in places.items():
        for name, what in named.items():
            if (where, what) not in keys[0]:
                assert name not in {'alarms_per_100_good', 'good_with_alarm', *at_a_place[place[0]]}
                continue
            digits = dict(alarms_per_100_good=1, good_with_alarm=1, fp_per_image=2).get(name, 3)
            factor = 100 if name == 'good_with_alarm' else 1
            for run, key in enumerate(keys):
                values = samples[run][f'{name}_at_{place}']
                numbers = [figures[run][f'{name}_at_{place}'], *widened(name, interval_of(values), 4)]
                texts = [f'{factor * one:.{digits}f}' if math.isfinite(one) else 'not reached' for one in numbers]
                text, difference = key[where, what]
                assert text == (f'{texts[0]} [{texts[1]}, {texts[2]}]' if math.isfinite(numbers[0]) else texts[0])
                with np.errstate(invalid='ignore'):  # inf - inf
                    low, high = interval_of(factor * (values - samples[0][f'{name}_at_{place}']))
                if run and math.isfinite(low) and math.isfinite(high):
                    change = factor * (figures[run][f'{name}_at_{place}'] - figures[0][f'{name}_at_{place}'])
                    assert difference == f'{change:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]'
                    compared += 1
                else:
                    assert difference == ''
    assert compared >= 4


def test_the_precision_on_a_line_is_shown_if_the_test_had_a_prevalence(page, results, tmp_path):
    """The prevalence of the first run counts. Without an alarm, the lower end of an interval is unknown."""
    shutil.copytree(results, tmp_path, dirs_exist_ok=True)
    edit(tmp_path / 'before/tested.json', prevalence=0.9)
    found = tmp_path / 'after/test.bbox.json'
    rows = json.loads(found.read_text(encoding='utf-8'))
    found.write_text(json.dumps([row for row in rows if row['image_id'] >= 4]), encoding='utf-8')
    report.main([str(tmp_path / 'before'), str(tmp_path / 'after'), '--out', str(tmp_path / 'page.html')])
    before, after = (
        {where: rest for where, what, *rest in run['key'] if what == 'precision if 0.9 of the parts are good'}
        for run in content((tmp_path / 'page.html').read_text(encoding='utf-8'))['runs']
    )
    assert list(before) == list(after) == [f'at recall {recall} of all objects' for recall in (0.7, 0.8, 0.9)]
    run = read_run(tmp_path / 'before', 'before')
    matches = match_images(zip(run.found, run.source.truth), 2)
    name = 'precision_at_recall_0.7_at_prevalence_0.9'
    low, high = interval_of(false_alarm_samples(matches, 0.25, (0.7,), 0.9)[name])
    value = false_alarms(matches, 0.25, (0.7,), 0.9)[name]
    assert 0 < value < 1 and before['at recall 0.7 of all objects'] == [f'{value:.3f} [{low:.3f}, {high:.3f}]', '']
    assert all('[unknown, ' in text and difference == '' for text, difference in after.values())
    assert 'of the parts are good' not in page


def test_a_missed_object_names_the_surest_detection_that_overlaps_it(page, results):
    data, named = content(page), 0
    run = read_run(results / 'before', 'before')
    for place, kind, _, _, image, _, _, _, near in data['entries']:
        if place or kind >= 0:
            continue
        boxes, scores = run.found[image].boxes, run.found[image].scores
        if near is None:
            continue
        label, score, iou, shares, _ = near
        named += 1
        assert iou >= 0.1 and len(shares) == 4
        assert any(abs(one - score) < 1e-4 and label == run.found[image].labels[i] for i, one in enumerate(scores))
        assert len(boxes) and score <= max(scores) + 1e-4
    assert named > 5


def test_a_picture_has_the_objects_in_it(page, results):
    """Mistakes on an object of another class name this class."""
    data, source = content(page), read_run(results / 'before', 'before').source
    named = 0
    for _, kind, label, _, image, picture, (x, y, width, height), _, near in data['entries']:
        objects = data['truth'][picture]
        true = near if isinstance(near, int) else None
        assert (true is not None) == (kind == MISTAKES.index('class')) and true != label
        named += true is not None
        assert {one for one, _ in objects} <= {*source.truth[image].labels.tolist()}
        if kind == -1:
            assert [label, [x, y, width, height]] in objects
        elif kind == MISTAKES.index('class'):
            # the object overlaps the box
            near = [[a, b, c, d] for one, (a, b, c, d) in objects if one == true]
            assert any(a < x + width and x < a + c and b < y + height and y < b + d for a, b, c, d in near)
    assert named > 3


def test_the_training_is_shown_where_its_log_is_found(page, results, tmp_path):
    assert '<h2 id="training">' in page and page.count('<svg') == 4  # also two of the confusion
    report.main([str(results / 'before'), '--out', str(tmp_path / 'page.html')])
    assert '<h2 id="training">' not in (tmp_path / 'page.html').read_text(encoding='utf-8')


def test_a_resumed_part_replaces_what_was_logged_before(tmp_path):
    before = [
        {'loss': 3.0, 'iter': 10},
        {'student/coco/bbox_mAP': 0.1, 'step': 1},
        {'loss': 2.0, 'iter': 20},
        {'teacher/coco/bbox_mAP': 0.2, 'step': 1},
    ]
    resumed = [{'loss': 1.5, 'iter': 20, 'semi/threshold_a': 0.2, 'semi/threshold_b': 0.4}, {'coco/bbox_mAP': 0.3}]
    rows = [[*before, {'loss': 9.0, 'iter': 30}], resumed]
    for name, part in zip(('20260101', '20260102'), rows):
        (tmp_path / name / 'vis_data').mkdir(parents=True)
        (tmp_path / name / 'vis_data/scalars.json').write_text('\n'.join(map(json.dumps, part)))
    (tmp_path / '20260103/vis_data').mkdir(parents=True)
    (tmp_path / '20260103/vis_data/scalars.json').write_text('{"loss": 1.0, "it')  # a full disk
    history = training_history(str(tmp_path / 'epoch_2.pth'))
    assert history == {
        'loss': [(10, 3.0), (20, 1.5)],
        'mAP in validation': [(20, 0.3)],
        'mean threshold of pseudo-labels': [(20, pytest.approx(0.3))],
    }
    assert training_history(str(tmp_path / 'other/epoch_2.pth')) == {}
    assert training_history(str(tmp_path / 'epoch_2.pth'), student=True) == {'mAP in validation': [(10, 0.1)]}


def test_plots_have_the_colours_of_the_page():
    curve, axes = precision_recall_svg([[[0.0, 1.0], [1.0, 0.5]], []])
    history = history_svg([{'loss': [(1, 2.0), (2, 1.0)]}, {}])
    for text in (curve, history):
        assert text.startswith('<svg') and 'currentColor' in text and TEXT not in text and '#000000' not in text
    assert COLOURS[0] in curve and COLOURS[0] in history
    # The line goes from the upper left corner of the axes to the middle of their right side.
    points = re.search(
        r'<path d="M ([\d.]+) ([\d.]+) \nL ([\d.]+) ([\d.]+) \n" [^>]*' + COLOURS[0], curve, re.S
    ).groups()
    middle = (axes['top'] + axes['bottom']) / 2
    assert [*map(float, points)] == pytest.approx([axes['left'], axes['top'], axes['right'], middle], abs=0.02)
    assert history_svg([{}, {}]) == '' == history_svg([{'loss': [(1, 2.0)]}])  # one point is no line


def test_the_name_of_a_run_is_escaped_in_the_page(results, tmp_path):
    shutil.copytree(results / 'before', tmp_path / '<i>run')
    report.main([str(tmp_path / '<i>run'), '--out', str(tmp_path / 'page.html')])
    text = (tmp_path / 'page.html').read_text(encoding='utf-8')
    assert '&lt;i&gt;run' in text and '<i>run' not in text


def test_names_from_files_are_data_and_never_html(page):
    assert NASTY in content(page)['classes'] and NASTY not in page and '&<b>' not in page
    assert page.count('<script') == 2


def test_the_page_asks_no_server(page):
    text = re.sub(r'<script id="data".*?</script>', '', page, flags=re.S)
    addresses = set(re.findall(r'https?://[^\'" )]+', text))
    # names of formats, not addresses to load
    assert addresses == {'http://www.w3.org/2000/svg', 'http://www.w3.org/1999/xlink'}
    assert not re.search(r'(?:src|href)="(?!data:|#)', text)


def edit(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    'change, message',
    [
        (lambda root: (root / 'after/tested.json').unlink(), 'after: expected a folder.*, but it has no tested.json'),
        (lambda root: (root / 'after/test.bbox.json').unlink(), 'test.bbox.json'),
        (lambda root: (root / 'after/test.bbox.json').write_text('[{"image_id": 99}]'), '99.*does not fit'),
        (lambda root: (root / 'test.json').write_text('{}'), 'test.json'),
        (lambda root: edit(root / 'after/tested.json', score_thr=0.3), 'after: expected .*before, but got others'),
        (lambda root: edit(root / 'after/tested.json', images=[[77, 'x']]), 'the tested image 77'),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(change, message, results, tmp_path, capsys):
    shutil.copytree(results, tmp_path / 'copy')
    root = tmp_path / 'copy'
    for run in ('before', 'after'):
        file = root / run / 'tested.json'
        file.write_text(file.read_text().replace(str(results), str(root)))
    change(root)
    code = report.main([str(root / 'before'), str(root / 'after'), '--out', str(tmp_path / 'page.html')])
    error = capsys.readouterr().err
    assert code == 2 and re.search(message, error) and error.count('\n') == 1
    assert not (tmp_path / 'page.html').exists()


def test_runs_with_other_boxes_are_not_compared(results, tmp_path, capsys):
    """Such as the same images with the labels of --suggestions."""
    shutil.copytree(results / 'after', tmp_path / 'after')
    coco = json.loads((results / 'test.json').read_text())
    coco['annotations'].append(dict(coco['annotations'][0], id=999, image_id=0))
    (tmp_path / 'more.json').write_text(json.dumps(coco))
    edit(tmp_path / 'after/tested.json', ann_file=str(tmp_path / 'more.json'))
    out = str(tmp_path / 'page.html')
    assert report.main([str(results / 'before'), str(tmp_path / 'after'), '--out', out]) == 2
    assert 'more.json' in capsys.readouterr().err


def test_the_results_of_one_of_several_metrics(results, tmp_path, capsys):
    for name in ('pr', 'pr75'):
        shutil.copytree(results / 'after', tmp_path / 'out' / name)
    assert report.main([str(tmp_path / 'out'), '--out', str(tmp_path / 'page.html')]) == 2
    assert re.search(r'results of several metrics. Name one: .*out/pr, .*out/pr75$', capsys.readouterr().err.strip())
    shutil.rmtree(tmp_path / 'out/pr75')
    assert report.main([str(tmp_path / 'out'), '--out', str(tmp_path / 'page.html')]) == 0


def test_only_tested_images_count(results, tmp_path):
    shutil.copytree(results / 'after', tmp_path / 'after')
    tested = json.loads((results / 'after/tested.json').read_text())
    few = json.loads((results / 'after/test.bbox.json').read_text())
    edit(tmp_path / 'after/tested.json', images=tested['images'][:6])
    (tmp_path / 'after/test.bbox.json').write_text(json.dumps([one for one in few if one['image_id'] < 6]))
    assert report.main([str(tmp_path / 'after'), '--out', str(tmp_path / 'page.html')]) == 0
    data = content((tmp_path / 'page.html').read_text(encoding='utf-8'))
    assert (data['images'], data['good'], sum(data['objects'])) == (6, 4, 6)


def test_pictures_that_are_gone_leave_the_figures(results, tmp_path):
    shutil.copytree(results, tmp_path / 'copy')
    root = tmp_path / 'copy'
    file = root / 'before/tested.json'
    file.write_text(file.read_text().replace(str(results), str(root)))
    shutil.rmtree(root / 'images')
    report.main([str(root / 'before'), '--out', str(root / 'page.html')])
    data = content((root / 'page.html').read_text(encoding='utf-8'))
    assert data['pictures'] == [] and {entry[5] for entry in data['entries']} == {-1}


def test_suggestions_are_what_all_runs_find_on_background(results, tmp_path, capsys):
    out, file = tmp_path / 'page.html', tmp_path / 'missing.json'
    folders = [str(results / 'before'), str(results / 'after')]
    assert report.main([*folders, '--out', str(out), '--suggestions', str(file), '--suggest-score', '0.1']) == 0
    coco = read_coco(file)
    names = {image['id']: image['file_name'] for image in coco['images']}
    found = {(names[one['image_id']], one['category_id'], tuple(one['bbox'])) for one in coco['annotations']}
    data = content(out.read_text(encoding='utf-8'))
    both = [one for one in data['entries'] if one[0] == 0 and one[1] == 0 and min(one[7]) >= 0.1]
    assert len(found) == len(coco['annotations']) == len(both) > 3
    assert {name for name, *_ in found} == {data['names'][one[4]] for one in both} == set(names.values())
    scores = sorted(one['score'] for one in coco['annotations'])
    assert scores == pytest.approx(sorted(sum(one[7]) / 2 for one in both), abs=1e-3)
    assert f'{len(both)} likely missing labels in {len(names)} images' in capsys.readouterr().out


def test_the_most_mistakes_are_kept(results, tmp_path):
    report.main([str(results / 'before'), '--out', str(tmp_path / 'page.html'), '--most', '3'])
    data = content((tmp_path / 'page.html').read_text(encoding='utf-8'))
    assert Counter(entry[1] < 0 for entry in data['entries']) == {True: 3, False: 3}


# In a browser


@pytest.fixture(scope='module')
def browser():
    """Headless Chromium of the system, with the logs of its console and its requests."""
    webdriver = pytest.importorskip('selenium.webdriver')
    chromium = shutil.which('chromium') or shutil.which('google-chrome')
    if chromium is None or shutil.which('chromedriver') is None:
        pytest.skip('Chromium and chromedriver are not installed')
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ('headless', 'no-sandbox', 'disable-gpu', 'no-first-run', 'disable-background-networking'):
        options.add_argument(f'--{argument}')
    options.add_argument('--window-size=1200,900')
    options.set_capability('goog:loggingPrefs', dict(browser='ALL', performance='ALL'))
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which('chromedriver')))
    yield driver
    driver.quit()


def move_slider(browser, value):
    script = "const one = document.getElementById('confidence'); one.value = arguments[0];"
    browser.execute_script(script + "one.dispatchEvent(new Event('input'));", value)


def choose(browser, name, value):
    script = 'const one = document.getElementById(arguments[0]); one.value = arguments[1];'
    browser.execute_script(script + "one.dispatchEvent(new Event('change'));", name, value)


def table(browser, name):
    script = 'return [...document.getElementById(arguments[0]).rows].map(row => [...row.cells].map(c => c.textContent))'
    return browser.execute_script(script, name)


def dots(browser):
    script = "return [...document.querySelectorAll('#curve circle')].map(c => [c.cx.baseVal.value, c.cy.baseVal.value])"
    return browser.execute_script(script)


def test_the_figures_at_a_confidence_are_those_of_the_metric(browser, page, results):
    browser.get(f'file://{results}/report.html')
    for confidence in (0.25, 0.4, 0.73, 0.01):
        move_slider(browser, confidence)
        rows = table(browser, 'figures')[1:]
        classes = table(browser, 'classes')[1:]
        for place, name in enumerate(('before', 'after')):
            run = read_run(results / name, name)
            matches = match_images(zip(run.found, run.source.truth), 2)
            found = precision_recall(matches, score_thr=confidence)
            figures = found['metrics']
            suffix = f'_at_{confidence:g}'
            expected = [figures[key + suffix] for key in ('precision', 'recall', 'f1', 'fp_per_image')]
            expected.append(100 * figures['fp_per_empty_image' + suffix])
            column = [row[1 + place] for row in rows]
            for text, value, digits in zip(column[:5], expected, (3, 3, 3, 2, 1), strict=True):
                assert re.fullmatch(rf'\d+\.\d{{{digits}}}', text) and abs(float(text) - value) <= 0.51 * 10**-digits
            pooled = [
                matches.tp[matches.scores >= confidence].sum() / count
                for count in (matches.num_gt.sum(), max((matches.scores >= confidence).sum(), 1))
            ]
            axes, dot = content(page)['axes'], dots(browser)[place]
            expected = [
                axes['left'] + pooled[0] * (axes['right'] - axes['left']),
                axes['bottom'] + pooled[1] * (axes['top'] - axes['bottom']),
            ]
            assert dot == pytest.approx(expected, abs=0.01)
            for line, entry in zip(classes, found['classes']):
                for text, key in zip(line[2 + 3 * place :], ('precision', 'recall', 'f1')):
                    assert abs(float(text) - entry[key + suffix]) <= 0.00051


def test_objects_and_false_positives_are_counted_by_size(browser, page, results):
    browser.get(f'file://{results}/report.html')
    move_slider(browser, 0.4)
    rows = table(browser, 'sizes')[1:]
    assert [row[0] for row in rows] == ['small', 'medium', 'large'] and rows[2][1:] == ['0', '–', '0', '–', '0']
    for place, name in enumerate(('before', 'after')):
        run = read_run(results / name, name)
        one = judged(run.found, run.source.truth)
        for row, (low, high) in zip(rows, ((0, 1024), (1024, 9216))):
            objects = [low <= w * h < high for *_, w, h in one.object_boxes]
            hits = sum(score >= 0.4 for score, right in zip(one.object_scores, objects) if right)
            false = (one.scores >= 0.4) & (one.kinds != HIT)
            wrong = sum(low <= w * h < high for *_, w, h in one.boxes[false])
            assert row[1] == str(sum(objects)) and row[3 + 2 * place] == str(wrong)
            assert abs(float(row[2 + 2 * place]) - hits / sum(objects)) <= 0.00051
    assert sum(int(row[1]) for row in rows) == sum(content(page)['objects'])


def test_the_gallery_is_filtered(browser, page, results):
    browser.get(f'file://{results}/report.html')
    data, confidence = content(page), 0.3
    move_slider(browser, confidence)
    count = "return document.querySelectorAll('#gallery .entry').length"

    def has(entry, run):
        return entry[7][run] < confidence if entry[1] < 0 else entry[7][run] >= confidence

    wrong = [entry for entry in data['entries'] if entry[1] >= 0 and has(entry, entry[0])]
    missed = [entry for entry in data['entries'] if entry[1] < 0 and has(entry, entry[0])]
    for kind, entries in (('all', wrong), ('missed', missed)):
        choose(browser, 'kind', kind)
        expected = {
            'of 0': [entry for entry in entries if entry[0] == 0],
            'of 1': [entry for entry in entries if entry[0] == 1],
            'gone 1': [entry for entry in entries if entry[0] == 0 and not has(entry, 1)],
            'new 1': [entry for entry in entries if entry[0] == 1 and not has(entry, 0)],
            'both 1': [entry for entry in entries if entry[0] == 0 and has(entry, 1)],
        }
        for show, chosen in expected.items():
            choose(browser, 'show', show)
            assert browser.execute_script(count) == len(chosen), (kind, show)
            counted = f"return document.querySelector('#kind option[value={kind}]').textContent"
            assert browser.execute_script(counted).endswith(f'({len(chosen)})')
        assert len(expected['gone 1']) + len(expected['both 1']) == len(expected['of 0'])
    assert all(expected.values())
    choose(browser, 'kind', 'all')
    choose(browser, 'show', 'of 0')
    first = [entry for entry in wrong if entry[0] == 0]
    for label in (0, 1):
        choose(browser, 'class', str(label))
        assert browser.execute_script(count) == len([entry for entry in first if entry[2] == label])
    choose(browser, 'class', 'all')
    for images, numbers in (('good', range(4)), ('other', range(4, 12))):
        choose(browser, 'images', images)
        assert browser.execute_script(count) == len([entry for entry in first if entry[4] in numbers]) > 0
    choose(browser, 'images', 'all')
    choose(browser, 'show', 'new 1')  # it has no effect on them
    choose(browser, 'kind', 'suspects')
    assert browser.execute_script(count) == len([one for one in first if one[1] == 0 and has(one, 1)])
    # They are of every run, so what "show" says has no effect.
    assert not browser.find_element('id', 'show').is_enabled()
    texts = browser.execute_script("return document.getElementById('gallery').textContent")
    assert NASTY in texts  # as a text


def test_a_page_says_what_it_left_out(browser, results, tmp_path):
    report.main([str(results / 'before'), '--out', str(tmp_path / 'page.html'), '--most', '3'])
    browser.get(f'file://{tmp_path}/page.html')
    assert 'missing labels' not in browser.find_element('id', 'kind').text  # with one run they are all on background
    run = read_run(results / 'before', 'before')
    one = judged(run.found, run.source.truth)
    scores = one.scores[one.kinds != HIT]
    text = "return document.getElementById('count').textContent"
    for confidence in (0.1, float(scores[2]) - 1e-4):
        move_slider(browser, confidence)
        number = int((scores >= confidence).sum())
        shown = browser.execute_script(text)
        assert shown.startswith(f'{number} at confidence {confidence:.3f}')
        assert ('The page has 3 of them' in shown) == (number > 3)


def test_a_confidence_for_a_goal_moves_the_slider(browser, page, results):
    browser.get(f'file://{results}/report.html')
    browser.execute_script("document.querySelectorAll('#points button')[1].click()")
    value = float(browser.execute_script("return document.getElementById('confidence').value"))
    assert value == content(page)['runs'][1]['points'][0][1]  # the best F1 of the second run
    run = read_run(results / 'after', 'after')
    best = precision_recall(match_images(zip(run.found, run.source.truth), 2))['metrics']
    assert float(table(browser, 'figures')[3][2]) == pytest.approx(best['f1'], abs=0.00051)


def test_without_detections_there_is_no_precision(browser, page, results):
    browser.get(f'file://{results}/report.html')
    move_slider(browser, 0.99)
    rows = table(browser, 'figures')
    counts = [(read_run(results / name, name).found, name) for name in ('before', 'after')]
    none = [not any((one.scores >= 0.99).any() for one in found) for found, _ in counts]
    assert [text == '–' for text in rows[1][1:]] == none and any(none) and len(dots(browser)) == none.count(False)


def test_no_error_and_no_request(browser, page, results):
    browser.get_log('browser'), browser.get_log('performance')
    browser.get(f'file://{results}/report.html')
    move_slider(browser, 0.5)
    assert browser.get_log('browser') == []
    events = [json.loads(entry['message'])['message'] for entry in browser.get_log('performance')]
    sent = [one['params']['request']['url'] for one in events if one['method'] == 'Network.requestWillBeSent']
    assert [url for url in sent if not url.startswith('data:')] == [f'file://{results}/report.html']


def test_without_an_alarm_on_few_good_parts_the_page_claims_little(browser, results, tmp_path):
    """The detections on the four good images are removed. The rule of three gives 75 false alarms per 100."""
    shutil.copytree(results / 'before', tmp_path / 'quiet')
    found = tmp_path / 'quiet/test.bbox.json'
    rows = json.loads(found.read_text(encoding='utf-8'))
    found.write_text(json.dumps([row for row in rows if row['image_id'] >= 4]), encoding='utf-8')
    report.main([str(tmp_path / 'quiet'), '--out', str(tmp_path / 'page.html')])
    browser.get(f'file://{tmp_path}/page.html')
    key = browser.find_element('id', 'key').text
    assert '[0.0, 75.0]' in key and '[0.0, 0.0]' not in key
    assert 'With 4 good parts, fewer than 75 false alarms per 100' in browser.find_element('id', 'few').text
    assert 'false alarms per 100 good parts' not in browser.find_element('id', 'points').text
