"""The camera and the layout of the modules in one picture."""

import math
from functools import reduce

import cv2
import numpy as np
from numpy.typing import ArrayLike

from mmyolo_bgpenalty.datasets.solar_panels import settings


def log_uniform(rng: np.random.Generator, low_high: tuple[float, float]) -> float:
    return float(np.exp(rng.uniform(*np.log(low_high))))


def step(distance: np.ndarray, width: float) -> np.ndarray:
    """0 below -width / 2, 1 above width / 2, linear between them."""
    return np.clip(distance / width + 0.5, 0, 1)


def value_noise(rng: np.random.Generator, h: int, w: int, grain: float) -> np.ndarray:
    """Smooth noise, float32, (h, w): mean near 0, standard deviation near 0.8, blobs of about ``grain`` pixels."""
    coarse = rng.standard_normal((math.ceil(h / grain) + 2, math.ceil(w / grain) + 2), dtype=np.float32)
    shape = int(coarse.shape[1] * grain), int(coarse.shape[0] * grain)
    full = cv2.resize(coarse, shape, interpolation=cv2.INTER_CUBIC)
    return full[int(grain / 2) :, int(grain / 2) :][:h, :w]


def texture(rng: np.random.Generator, h: int, w: int, *octaves: tuple[float, float]) -> np.ndarray:
    """Sum of value noises. Each octave is (grain in pixels, weight)."""
    return reduce(np.add, (weight * value_noise(rng, h, w, grain) for grain, weight in octaves))


class Scene:
    """Maps the pixels of one picture to the plane of the modules. The unit of the plane is one cell."""

    def __init__(self, rng: np.random.Generator, w: int, h: int):
        self.w, self.h = w, h
        self.scale = min(w / 320, h / 256)
        self.px = log_uniform(rng, settings.CELL_PX) * self.scale
        self.cols, self.rows = ((6, 10), (10, 6), (6, 10), (6, 8), (6, 12), (4, 9))[rng.integers(6)]
        self.margin = rng.uniform(0.15, 0.32)
        self.mw, self.mh = self.cols + 2 * self.margin, self.rows + 2 * self.margin
        self.pitch_u = self.mw + rng.uniform(0.08, 0.5)
        self.pitch_v = self.mh + rng.uniform(0.08, 0.6)
        self.stack = int(rng.integers(1, 4))  # rows of modules on one mounting table
        self.table = self.stack * self.pitch_v + rng.uniform(2, 9)
        self.first, self.last = -99, 99  # columns of modules
        if rng.random() < 0.3:
            if rng.random() < 0.5:
                self.first = 0
            else:
                self.last = 0
        u0 = rng.uniform(0, self.pitch_u)
        v0 = rng.uniform(0.15, 0.85) * self.stack * self.pitch_v
        turn = math.radians(90 * int(rng.integers(4)) + rng.normal(0, settings.ANGLE_SD))
        c, s = math.cos(turn), math.sin(turn)
        squeeze = rng.uniform(0.75, 1.0)  # an oblique view makes one side shorter
        to_image = np.diag([self.px, self.px * squeeze, 1.0]) @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])
        to_image = to_image @ np.array([[1, 0, -u0], [0, 1, -v0], [0, 0, 1.0]])
        tilt = np.eye(3)
        tilt[2, 0] = rng.uniform(-0.5, 0.5) * settings.PERSPECTIVE / (w / 2)
        tilt[2, 1] = rng.uniform(-1, 1) * settings.PERSPECTIVE / (h / 2)
        centre = np.array([[1, 0, w / 2], [0, 1, h / 2], [0, 0, 1.0]])
        self.matrix = centre @ tilt @ to_image
        inverse = np.linalg.inv(self.matrix)
        y, x = np.mgrid[:h, :w].astype(np.float32)
        inverse = (inverse / inverse[2, 2]).astype(np.float32)
        z = inverse[2, 0] * x + inverse[2, 1] * y + inverse[2, 2]
        self.u = (inverse[0, 0] * x + inverse[0, 1] * y + inverse[0, 2]) / z
        self.v = (inverse[1, 0] * x + inverse[1, 1] * y + inverse[1, 2]) / z

        column = np.floor(self.u / self.pitch_u)
        table = np.floor(self.v / self.table)
        below = self.v - table * self.table
        row = np.floor(below / self.pitch_v)
        self.lu = self.u - column * self.pitch_u
        self.lv = below - row * self.pitch_v
        present = (row < self.stack) & (column >= self.first) & (column <= self.last)
        edge = np.minimum(np.minimum(self.lu, self.mw - self.lu), np.minimum(self.lv, self.mh - self.lv))
        self.edge = np.where(present, edge, -1)
        self.module = step(self.edge, 1 / self.px)
        self.column = column.astype(np.int32)
        self.row = (table * self.stack + np.minimum(row, self.stack - 1)).astype(np.int32)
        self.cu = self.lu - self.margin
        self.cv = self.lv - self.margin
        self.ci = np.clip(np.floor(self.cu), 0, self.cols - 1).astype(np.int32)
        self.cj = np.clip(np.floor(self.cv), 0, self.rows - 1).astype(np.int32)
        self.inner = np.minimum(np.minimum(self.cu, self.cols - self.cu), np.minimum(self.cv, self.rows - self.cv))

    def cells(self) -> np.ndarray:
        """Visible cells, int, (n, 4): module column, module row, cell column, cell row."""
        part = slice(None, None, 4), slice(None, None, 4)
        pick = (self.inner[part] > 0) & (self.edge[part] > 0)
        keys = [a[part][pick].astype(np.int64) for a in (self.column, self.row, self.ci, self.cj)]
        bases = 4096, 4096, 16, 16
        packed = np.ravel_multi_index((keys[0] + 2048, keys[1] + 2048, keys[2], keys[3]), bases)
        found = np.stack(np.unravel_index(np.unique(packed), bases), 1)
        return found - (2048, 2048, 0, 0)

    def corner(self, column: int, row: int, i: int = 0, j: int = 0) -> tuple[float, float]:
        """The upper left corner of cell (i, j) of a module, in the plane."""
        table, inside = divmod(int(row), self.stack)
        u = column * self.pitch_u + self.margin + i
        return float(u), float(table * self.table + inside * self.pitch_v + self.margin + j)

    def project(self, points: ArrayLike) -> np.ndarray:
        """The pixels, (n, 2), of points in the plane, (n, 2)."""
        known = np.asarray(points, float)
        p = np.c_[known, np.ones(len(known))] @ self.matrix.T
        return p[:, :2] / p[:, 2:]

    def window(self, points: ArrayLike, pad: float) -> tuple[slice, slice, float]:
        """Slices around the projected points plus ``pad`` pixels, and the visible share of the points' bounding box."""
        p = self.project(points)
        low, high = p.min(0), p.max(0)
        x0, y0 = np.clip(np.floor(low - pad), 0, (self.w, self.h)).astype(int)
        x1, y1 = np.clip(np.ceil(high + pad), 0, (self.w, self.h)).astype(int)
        inside = np.maximum(np.minimum(high, (self.w, self.h)) - np.maximum(low, 0), 0)
        return slice(y0, y1), slice(x0, x1), float(np.prod(inside / (high - low)))
