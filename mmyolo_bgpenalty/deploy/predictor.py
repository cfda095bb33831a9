"""Run the teacher of a semi-supervised config, or the detector of another config, on pictures."""

from collections.abc import Sequence

import numpy as np
import torch
from mmcv.transforms import LoadImageFromFile
from mmdet.utils import get_test_pipeline_cfg
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.device import get_device
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import init_default_scope
from mmyolo.registry import MODELS, TRANSFORMS

from mmyolo_bgpenalty.deploy.plain_detector import dataset_metainfo
from mmyolo_bgpenalty.engine.checkpoints.start_weights import StartWeights
from mmyolo_bgpenalty.evaluation.matching import Detections, xywh
from mmyolo_bgpenalty.utils.image_files import image_fault


class PictureLoader:
    """Loads pictures as the test pipeline of a config does, and prepares them for the model.

    Annotation files are not read.

    Raises:
        ValueError: the config has no test pipeline that begins with LoadImageFromFile.
    """

    def __init__(self, cfg: Config):
        if not cfg.get('test_dataloader'):
            raise ValueError(f'{cfg.filename}: expected `test_dataloader` in the config, but there is none')
        init_default_scope(cfg.get('default_scope', 'mmdet'))
        first, *rest = (TRANSFORMS.build(transform) for transform in get_test_pipeline_cfg(cfg))
        if not isinstance(first, LoadImageFromFile):
            raise ValueError(
                f'{cfg.filename}: expected the pipeline of `test_dataloader` to begin with LoadImageFromFile, but got '
                f'{type(first).__name__}'
            )
        self._load, self._prepare = first, Compose(rest)

    def load(self, path: str) -> np.ndarray:
        """The picture (H, W, 3) in BGR, turned by its EXIF orientation.

        Raises:
            ValueError: the file cannot be read. The message says why, without the path.
        """
        fault = image_fault(path)
        try:
            results = None if fault else self._load(dict(img_path=path))
        except Exception as error:  # each loading backend raises its own errors for a broken file
            fault = f'{type(error).__name__}: {" ".join(str(error).split())}'
        if fault or results is None:
            raise ValueError(fault or 'its loader returned nothing')
        return results['img']

    def prepare(self, image: np.ndarray) -> dict:
        """The inputs of the model and a data sample."""
        shape = image.shape[:2]
        return self._prepare(dict(img=image, img_shape=shape, ori_shape=shape, img_path=None, img_id=0, instances=[]))


def rgb(image: np.ndarray) -> np.ndarray:
    """A picture (H, W, 3) in BGR as RGB. A grey picture (H, W) stays as it is."""
    return image[..., 2::-1] if image.ndim == 3 else image


class Predictor:
    """Predicts boxes on pictures. Each picture goes through the test pipeline of the config.

    Attributes:
        classes: names of the classes.
        batch_size: of ``test_dataloader``.

    Raises:
        ValueError: the checkpoint has another model or other classes, or `metainfo` of the test set lacks the classes.
    """

    def __init__(self, cfg: Config, checkpoint: str, pictures: PictureLoader):
        self._pictures = pictures
        self.batch_size = cfg.test_dataloader.get('batch_size', 1)
        self._model = revert_sync_batchnorm(MODELS.build(cfg.model))
        weights = StartWeights(checkpoint, self._model, complete=True).checkpoint()
        self._model.load_state_dict(weights['state_dict'])
        meta = weights.get('meta') or {}
        self.classes = list(dataset_metainfo(cfg, meta.get('dataset_meta') or {}, checkpoint)['classes'])
        head = getattr(getattr(self._model, 'teacher', self._model), 'bbox_head', None)
        number = getattr(head, 'num_classes', len(self.classes) or 1)
        if len(self.classes) != number:
            raise ValueError(
                f'{checkpoint}: expected the names of {number} classes in `metainfo` of `test_dataloader.dataset`, but '
                f'got {len(self.classes)}'
            )
        self._model.to(get_device()).eval()

    @torch.no_grad()
    def __call__(self, images: Sequence[np.ndarray], score_thr: float) -> list[Detections]:
        """Detections in the pixels of each picture, (H, W, 3) in BGR, with scores >= ``score_thr`` and an area > 0."""
        prepared = [self._pictures.prepare(image) for image in images]
        data = {key: [entry[key] for entry in prepared] for key in prepared[0]}
        found = []
        for sample in self._model.test_step(data):
            instances = sample.pred_instances.cpu().numpy()
            boxes = xywh(instances.bboxes)
            kept = (instances.scores >= score_thr) & (boxes[:, 2:] > 0).all(axis=1)
            found.append(Detections(boxes[kept], instances.scores[kept], instances.labels[kept]))
        return found
