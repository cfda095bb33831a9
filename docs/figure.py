"""results.png: what unlabeled images are worth, of the runs in experiments_runs.csv; a line is a seed (of a fold).

python docs/figure.py
"""

import io
from pathlib import Path
from typing import List, Sequence, Tuple

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from tables import SESSIONS, Values, read_runs, values_of

PLACES = ('labels only', 'and unlabeled\nimages', 'all labels')
# Title, set, metric, variants at the three places
SHIPPED = 'recipe, soft targets, mosaic and MixUp of labeled, penalty λ=0.3'
SOLAR = ('labels only, mosaic and MixUp', SHIPPED, 'all labels')
BCCD = ('labels only', 'recipe, penalty λ=0.3', 'all labels')
PANELS = (
    ('Solar panels (60 of 600 labeled): mAP', 'solar', 'mAP', SOLAR),
    ('Solar panels: precision at recall 0.8', 'solar', 'precision_at_recall_0.8', SOLAR),
    ('BCCD (29 of 219 labeled): mAP', 'BCCD', 'mAP', BCCD),
)


def lines_of(values: Sequence[Values]) -> List[List[Tuple[int, float]]]:
    """Of each fold and seed its (place, value) at the places where it has one."""
    keys = sorted({key for at_place in values for key in at_place})
    return [[(place, at_place[key]) for place, at_place in enumerate(values) if key in at_place] for key in keys]


def picture(runs: Sequence[dict]) -> bytes:
    """PNG: a panel a set and metric, thin lines for seeds, a bar for the mean at each place."""
    figure = Figure(figsize=(12, 3.6), layout='constrained')
    FigureCanvasAgg(figure)
    for panel, (title, name, metric, variants) in zip(figure.subplots(1, len(PANELS)), PANELS):
        wanted = dict(set=[name], images=['test'], iterations=['5400', '1920'], nms=['0.5'], session=SESSIONS)
        values = [values_of(runs, metric, variant=[variant], **wanted) for variant in variants]
        for line in lines_of(values):
            panel.plot(*zip(*line), 'o-', color='0.6', linewidth=1, markersize=4)
        for place, at_place in enumerate(values):
            mean = sum(at_place.values()) / len(at_place)
            panel.hlines(mean, place - 0.2, place + 0.2, color=f'C{place}', linewidth=3)
            panel.annotate(f'{mean:.3f}', (place + 0.22, mean), va='center', fontsize=9, color=f'C{place}')
        panel.set_xticks(range(len(PLACES)), PLACES)
        panel.set_xlim(-0.4, len(PLACES) - 0.4)
        panel.set_title(title, fontsize=10)
        panel.grid(axis='y', alpha=0.3)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=90, metadata={'Software': None})
    return buffer.getvalue()


if __name__ == '__main__':
    Path(__file__).with_name('results.png').write_bytes(picture(read_runs()))
