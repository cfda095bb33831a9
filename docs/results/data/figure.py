"""Draw results.png, the gain from unlabeled images, and good_parts.png, the false alarms with and without good parts.

They show the runs in experiments_runs.csv and good_parts.csv. A line is a seed (of a fold).

    python docs/results/data/figure.py
"""

import io
from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from tables import SESSIONS, Values, read_runs, values_of

PLACES = ('labels only', 'and unlabeled\nimages', 'all labels')
SHIPPED = 'recipe, soft targets, mosaic and MixUp of labeled, penalty λ=0.3'
SOLAR = ('labels only, mosaic and MixUp', SHIPPED, 'all labels')
BCCD = ('labels only', 'recipe, penalty λ=0.3', 'all labels')
# Title, set, metric, and the variant at each place.
PANELS = (
    ('Solar panels (60 of 600 labeled): mAP', 'solar', 'mAP', SOLAR),
    ('Solar panels: precision at recall 0.8', 'solar', 'precision_at_recall_0.8', SOLAR),
    ('BCCD (29 of 219 labeled): mAP', 'BCCD', 'mAP', BCCD),
)


GOOD_PARTS = Path(__file__).with_name('good_parts.csv')
GOOD_PANELS = (
    (
        'DeepPCB',
        'labels only, bf16',
        '400 good boards, misfires first, lambda 0.3 on them only, bf16',
        'all labels, bf16',
        'all labels and 400 good boards, bf16',
    ),
    (
        'solar',
        'labels only, bf16',
        '400 good panels, misfires first, lambda 0.3 on them only, bf16',
        'all labels, bf16',
        'all labels and 400 good panels, bf16',
    ),
)
LABEL = dict(facecolor='white', edgecolor='none', pad=1)  # lines do not cross the number
RECALLS, ALARMS = (0.6, 0.7, 0.8, 0.9), (0, 1, 3, 10, 30, 100, 300)


def seed_lines(values: Sequence[Values]) -> list[list[tuple[int, float]]]:
    """For each fold and seed its points (place, value). A place without a run has no point."""
    keys = sorted({key for at_place in values for key in at_place})
    return [[(place, at_place[key]) for place, at_place in enumerate(values) if key in at_place] for key in keys]


def picture(runs: Sequence[dict]) -> bytes:
    """PNG: a panel per set and metric, with thin lines for the seeds and a bar for the mean at each place."""
    figure = Figure(figsize=(12, 3.6), layout='constrained')
    FigureCanvasAgg(figure)
    for panel, (title, name, metric, variants) in zip(figure.subplots(1, len(PANELS)), PANELS, strict=True):
        wanted = dict(set=[name], images=['test'], iterations=['5400', '1920'], nms=['0.5'], session=SESSIONS)
        values = [values_of(runs, metric, variant=[variant], **wanted) for variant in variants]
        for line in seed_lines(values):
            panel.plot(*zip(*line, strict=True), 'o-', color='0.6', linewidth=1, markersize=4)
        for place, at_place in enumerate(values):
            mean = sum(at_place.values()) / len(at_place)
            panel.hlines(mean, place - 0.2, place + 0.2, color=f'C{place}', linewidth=3)
            panel.annotate(f'{mean:.3f}', (place + 0.22, mean), va='center', fontsize=9, color=f'C{place}', bbox=LABEL)
        panel.set_xticks(range(len(PLACES)), PLACES)
        panel.set_xlim(-0.4, len(PLACES) - 0.4)
        panel.set_title(title, fontsize=10)
        panel.grid(axis='y', alpha=0.3)
    return _png(figure)


def picture_of_alarms(runs: Sequence[dict]) -> bytes:
    """PNG: a panel per set, with false alarms per 100 good parts over recall, on the test images."""
    figure = Figure(figsize=(9, 3.4), layout='constrained')
    FigureCanvasAgg(figure)
    for panel, (name, *variants) in zip(figure.subplots(1, len(GOOD_PANELS)), GOOD_PANELS, strict=True):
        for number, variant in enumerate(variants):
            chosen = [run for run in runs if (run['set'], run['variant'], run['images']) == (name, variant, 'test')]
            for place, run in enumerate(chosen):
                values = [float(run[f'alarms_at_recall_{recall:g}'] or 'nan') for recall in RECALLS]
                label = {} if place else dict(label=variant.partition(',')[0])
                panel.plot(RECALLS, values, 'o-', color=f'C{number}', linewidth=1, markersize=4, **label)
        panel.set_xticks(RECALLS)
        panel.set_xlabel('recall')
        panel.set_yscale('symlog', linthresh=1)  # it has a place for 0
        panel.set_yticks(ALARMS, ALARMS, minor=False)
        panel.set_ylim(-0.1, 1200)
        panel.yaxis.set_minor_locator(NullLocator())
        panel.set_title(f'{name}: false alarms per 100 good parts', fontsize=10)
        panel.grid(alpha=0.3)
        panel.legend(fontsize=9)
    return _png(figure)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=90, metadata={'Software': None})
    return buffer.getvalue()


if __name__ == '__main__':
    DOCS = Path(__file__).resolve().parents[2]
    (DOCS / 'results/results.png').write_bytes(picture(read_runs()))
    (DOCS / 'guides/good_parts.png').write_bytes(picture_of_alarms(read_runs(GOOD_PARTS)))
