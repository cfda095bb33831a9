"""CocoMetric by faster-coco-eval: the same figures in less time.

CocoMetric's method names its evaluator, and what writes and reads the detections, as globals of its module: here the
method runs with others in their place. Matching and accumulation are faster-coco-eval's; what becomes of them,
figures and tables, is pycocotools' and CocoMetric's own. Without an ``outfile_prefix`` the detections are not
written to json and read back.
"""

from numbers import Real
from types import FunctionType
from typing import Callable, Dict, Optional

from mmdet.datasets.api_wrappers import COCOeval
from mmdet.evaluation import CocoMetric

PARAMETERS = ('imgIds', 'catIds', 'iouThrs', 'recThrs', 'maxDets', 'areaRng', 'areaRngLbl', 'useCats')


class FasterCOCOeval(COCOeval):
    """pycocotools' COCOeval, which leaves matching and accumulation to faster-coco-eval."""

    def evaluate(self) -> None:
        from faster_coco_eval import COCOeval_faster

        self._faster = COCOeval_faster(self.cocoGt, self.cocoDt, self.params.iouType)
        for name in PARAMETERS:
            setattr(self._faster.params, name, getattr(self.params, name))
        self._faster.evaluate()
        for name in PARAMETERS:  # sorted, and each once
            setattr(self.params, name, getattr(self._faster.params, name))

    def accumulate(self, p=None) -> None:
        self._faster.accumulate()
        self.eval = self._faster.eval


def obstacle(metric: CocoMetric) -> Optional[str]:
    """Why faster-coco-eval cannot take a metric's place, or None."""
    try:
        import faster_coco_eval  # noqa: F401
    except ImportError as error:
        return f'faster-coco-eval cannot be imported ({error}); pip install faster-coco-eval'
    if getattr(metric, 'use_mp_eval', False):
        return "`use_mp_eval` asks for MMDetection's own evaluator"
    if 'segm' in metric.metrics:
        return "masks are left to pycocotools: leave `metric` at 'bbox'"
    entries = [] if metric._coco_api is None else metric._coco_api.dataset.get('annotations', [])
    for entry in entries:
        for name in ('id', 'image_id', 'category_id'):
            if not isinstance(entry[name], Real):
                return f'it takes numbers for ids, and `{name}` of an annotation is {entry[name]!r}'
    return None


def compute_metrics(metric: CocoMetric, results: list) -> Dict[str, float]:
    """``CocoMetric.compute_metrics(metric, results)`` by faster-coco-eval."""
    names: dict = dict(COCOeval=FasterCOCOeval)
    if metric.outfile_prefix is None:
        written: Dict[str, list] = {}
        names['load'] = lambda path: [dict(detection) for detection in written[path]]
        results2json = with_names(
            CocoMetric.results2json, dump=lambda content, path: written.__setitem__(path, content)
        )
        metric.results2json = results2json.__get__(metric)
    try:
        return with_names(CocoMetric.compute_metrics, **names)(metric, results)
    finally:
        metric.__dict__.pop('results2json', None)


def with_names(function: FunctionType, **names) -> Callable:
    """``function``, with ``names`` in place of its module's."""
    changed = FunctionType(
        function.__code__,
        {**function.__globals__, **names},
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    changed.__kwdefaults__ = function.__kwdefaults__
    return changed
