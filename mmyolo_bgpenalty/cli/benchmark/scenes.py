"""Made-up batches. Letters in shapes: B images, C classes, G boxes per image."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

STRIDES = (8, 16, 32)


@dataclass(frozen=True)
class Shape:
    """A batch: images, their size in pixels (multiples of 32), classes, and boxes per image."""

    batch: int
    height: int
    width: int
    classes: int
    boxes: int

    def __str__(self):
        size = f'{self.width}' if self.width == self.height else f'{self.width} × {self.height}'
        return f'{self.batch} × {size} px, C = {self.classes}, G = {self.boxes}'


class Scene:
    """Boxes of images, and the predictions of a detector that is half trained.

    The sides of the boxes are log-uniform from ``smallest`` to half of the image. Class logits are normal, -4 ± 1.5.
    Half of the priors in a box predict this box with an error of 10 %, and have a higher logit for its class.

    Attributes:
        bboxes: (B, G, 4), xyxy in pixels. labels: (B, G).
        logits: (B, C, H, W) per level, requires a gradient.
        distributions: (B, 64, H, W) per level, the logits of 16 bins per side, requires a gradient.
    """

    def __init__(self, shape: Shape, device: str, smallest: float = 8, seed: int = 0):
        self.shape, self.device = shape, device
        random = torch.Generator().manual_seed(seed)
        size = torch.tensor([shape.width, shape.height], dtype=torch.float32)
        sides = smallest * (size / 2 / smallest) ** torch.rand(shape.batch, shape.boxes, 2, generator=random)
        corner = torch.rand(shape.batch, shape.boxes, 2, generator=random) * (size - sides)
        self.bboxes = torch.cat([corner, corner + sides], dim=-1)
        self.labels = torch.randint(shape.classes, (shape.batch, shape.boxes), generator=random)
        levels = [self._predictions(stride, random) for stride in STRIDES]
        self.logits, self.distributions = (
            [level.to(device).requires_grad_() for level in kind] for kind in zip(*levels, strict=True)
        )
        self.bboxes, self.labels = self.bboxes.to(device), self.labels.to(device)

    def _predictions(self, stride: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        rows, columns = self.shape.height // stride, self.shape.width // stride
        y, x = torch.meshgrid(torch.arange(rows) + 0.5, torch.arange(columns) + 0.5, indexing='ij')
        points = torch.stack([x, y], dim=-1).reshape(-1, 2)
        logits = torch.empty(self.shape.batch, self.shape.classes, len(points)).normal_(-4, 1.5, generator=random)
        distributions = torch.empty(self.shape.batch, 4, 16, len(points)).normal_(generator=random)
        bins = torch.arange(16.0)[:, None]
        for image in range(self.shape.batch):
            for box, label in zip(self.bboxes[image] / stride, self.labels[image], strict=True):
                sides = torch.cat([points - box[:2], box[2:] - points], dim=-1)
                hit = (sides.min(dim=-1).values > 0) & (torch.rand(len(points), generator=random) < 0.5)
                predicted = sides[hit].T * (1 + 0.1 * torch.randn(4, int(hit.sum()), generator=random))
                distributions[image][..., hit] -= (bins - predicted.clamp(0, 15)[:, None]) ** 2 / 2
                logits[image, label, hit] += 3
        shape = (self.shape.batch, -1, rows, columns)
        return logits.reshape(shape), distributions.reshape(shape)

    @property
    def objects(self) -> Tensor:
        """(B · G, 6): image, class and box, as MMYOLO's ``yolov5_collate`` returns them."""
        image = torch.arange(self.shape.batch, device=self.device).repeat_interleave(self.shape.boxes)
        return torch.cat([image[:, None], self.labels.reshape(-1, 1), self.bboxes.reshape(-1, 4)], dim=1).float()

    def pictures(self, seed: int) -> Tensor:
        """(B, 3, H, W), uint8: brighter boxes on noise."""
        random, shape = torch.Generator().manual_seed(seed), (self.shape.batch, 3, self.shape.height, self.shape.width)
        pictures = torch.randint(60, shape, generator=random, dtype=torch.uint8)
        for picture, boxes in zip(pictures, self.bboxes.int().tolist(), strict=True):
            for x1, y1, x2, y2 in boxes:
                picture[:, y1:y2, x1:x2] += int(torch.randint(80, 190, (), generator=random))
        return pictures


def meta(shape: Shape, homography: np.ndarray | None = None) -> dict:
    """The meta of an image without padding, as PackDetInputs writes it."""
    size = (shape.height, shape.width)
    matrix = np.eye(3, dtype=np.float32) if homography is None else homography
    return dict(
        ori_shape=size, img_shape=size, batch_input_shape=size, scale_factor=(1.0, 1.0), homography_matrix=matrix
    )
