"""The labeled defects of one picture: hot cells, hot strings and cracks."""

import math
from typing import NamedTuple

import cv2
import numpy as np

from mmyolo_bgpenalty.datasets.solar_panels import settings
from mmyolo_bgpenalty.datasets.solar_panels.scene import Scene, log_uniform, step

Cell = tuple[int, int, int, int]  # module column, module row, cell column, cell row
Box = tuple[int, int, int, int]  # x, y, width, height


class _Defect(NamedTuple):
    ys: slice
    xs: slice
    mask: np.ndarray  # share of the peak temperature at each pixel of the slices
    core: np.ndarray  # the part of the mask that the box must enclose
    cells: list[Cell]


def _hot_cell(rng: np.random.Generator, scene: Scene, cell: Cell) -> _Defect | None:
    """A cell that is warm in whole or in part. None if too little of it is inside the picture."""
    u0, v0 = scene.corner(*cell)
    ys, xs, seen = scene.window([(u0, v0), (u0 + 1, v0), (u0, v0 + 1), (u0 + 1, v0 + 1)], 0.35 * scene.px)
    if seen < 0.9:
        return None
    x, y = scene.u[ys, xs] - u0 - 0.5, scene.v[ys, xs] - v0 - 0.5
    soft = rng.uniform(0.1, 0.25)
    body = step(0.49 - np.abs(x), soft) * step(0.49 - np.abs(y), soft)
    kind = rng.random()
    if kind < 0.62:
        x1, y1 = rng.uniform(-0.25, 0.25, 2)
        body = body * (1 - rng.uniform(0.1, 0.5) * np.minimum((x - x1) ** 2 + (y - y1) ** 2, 0.8))
    elif kind < 0.82:  # the part of the cell on one side of a crack
        turn = rng.choice(4) * np.pi / 2 + rng.normal(0, 0.25)
        body = body * step(x * math.cos(turn) + y * math.sin(turn) + rng.uniform(0.0, 0.2), soft)
    else:  # a spot inside the cell
        x1, y1 = rng.uniform(-0.15, 0.15, 2)
        sd = rng.uniform(0.26, 0.36)
        body = body * np.exp(-((x - x1) ** 2 + (y - y1) ** 2) / (2 * sd * sd))
    body = body / max(float(body.max()), 1e-6)
    return _Defect(ys, xs, body, body, [cell])


def _hot_string(rng: np.random.Generator, scene: Scene, cell: Cell) -> _Defect | None:
    """A line of warm cells, like a bypassed string. None if too little of it is inside the picture."""
    column, row, i, j = cell
    upright = scene.rows >= scene.cols
    length = min(int(rng.integers(*settings.STRING_CELLS)), scene.rows if upright else scene.cols)
    size = (1, length) if upright else (length, 1)
    first = (i, min(j, scene.rows - length)) if upright else (min(i, scene.cols - length), j)
    u0, v0 = scene.corner(column, row, *first)
    u1, v1 = u0 + size[0], v0 + size[1]
    ys, xs, seen = scene.window([(u0, v0), (u1, v0), (u0, v1), (u1, v1)], 0.35 * scene.px)
    if seen < 0.8:
        return None
    x, y = scene.u[ys, xs], scene.v[ys, xs]
    inside = np.minimum(np.minimum(x - u0, u1 - x), np.minimum(y - v0, v1 - y))
    used = [(column, row, first[0] + a, first[1] + b) for a in range(size[0]) for b in range(size[1])]
    patches = rng.uniform(0.78, 1.0, (size[1], size[0])).astype(np.float32)
    a = np.clip(np.floor(x - u0), 0, size[0] - 1).astype(int)
    b = np.clip(np.floor(y - v0), 0, size[1] - 1).astype(int)
    mask = step(inside + 0.02, rng.uniform(0.08, 0.2)) * patches[b, a]
    return _Defect(ys, xs, mask, mask, used)


def _crack(rng: np.random.Generator, scene: Scene, cell: Cell) -> _Defect | None:
    """A branching line in one module. None if it is too short, in more than 8 cells, or partly outside the picture."""
    column, row, i, j = cell
    u0, v0 = scene.corner(column, row)
    reach = rng.uniform(34, 76) * scene.scale / scene.px
    start = np.array([i, j]) + rng.uniform(0.15, 0.85, 2)
    heading = rng.uniform(0, 2 * np.pi)

    def walk(point: np.ndarray, angle: float, length: float) -> np.ndarray:
        path, gone = [point], 0.0
        while gone < length:
            stride = rng.uniform(0.1, 0.28)
            angle += rng.normal(0, 0.5)
            point = point + stride * np.array([math.cos(angle), math.sin(angle)])
            if not (0.05 < point[0] < scene.cols - 0.05 and 0.05 < point[1] < scene.rows - 0.05):
                break
            path.append(point)
            gone += stride
        return np.array(path)

    paths = [walk(start, heading, reach)]
    for _ in range(rng.integers(1, 4)):
        at = paths[0][rng.integers(len(paths[0]))]
        paths.append(walk(at, heading + rng.choice([-1, 1]) * rng.uniform(0.6, 1.3), reach * rng.uniform(0.25, 0.55)))
    if len(paths[0]) < 4:  # the main branch soon left its module
        return None
    points = np.concatenate(paths)
    used = {(column, row, int(a), int(b)) for a, b in points}
    origin = np.array([u0, v0])
    ys, xs, seen = scene.window(points + origin, 5)
    if seen < 0.95 or len(used) > 8:
        return None
    core = np.zeros((ys.stop - ys.start, xs.stop - xs.start), np.uint8)
    width = 1 if scene.px < 26 * scene.scale or rng.random() < 0.6 else 2
    for path in paths:
        pixels = (scene.project(path + origin) - (xs.start, ys.start)) * 16
        cv2.polylines(core, [pixels.astype(np.int32)], False, 255, width, cv2.LINE_AA, 4)
    core = core.astype(np.float32) / 255
    glow = cv2.GaussianBlur(core, (0, 0), 2.5 * scene.scale)
    return _Defect(ys, xs, core + rng.uniform(0.3, 0.8) * glow, core, list(used))


def _box(mask: np.ndarray, ys: slice, xs: slice) -> Box | None:
    """The smallest box around the pixels above EDGE. None if a side is below MIN_BOX."""
    hot = mask > settings.EDGE
    rows, cols = np.flatnonzero(hot.any(1)), np.flatnonzero(hot.any(0))
    if not len(rows) or min(rows[-1] - rows[0], cols[-1] - cols[0]) + 1 < settings.MIN_BOX:
        return None
    y, x = ys.start + rows[0], xs.start + cols[0]
    return int(x), int(y), int(cols[-1] - cols[0] + 1), int(rows[-1] - rows[0] + 1)


def defects(
    rng: np.random.Generator, scene: Scene, heat: np.ndarray, glare: np.ndarray, plants: np.ndarray
) -> list[tuple[int, ...]]:
    """Add defects to ``heat`` in place. Return (class, x, y, width, height) of each.

    At most a quarter of each defect is hidden. The box encloses the part that no plant covers.

    Args:
        heat: temperatures of the picture, (H, W).
        glare: how much a reflection or a dropping hides a defect, 0 to 1, (H, W).
        plants: how much a plant hides a defect, 0 to 1, (H, W).
    """
    if rng.random() < settings.P_EMPTY:
        return []
    blocked = np.maximum(glare, plants)
    cells = [(int(a), int(b), int(c), int(d)) for a, b, c, d in scene.cells()]
    wanted = min(1 + int(rng.poisson(settings.MEAN_EXTRA)), settings.MAX_DEFECTS)
    taken: set[Cell] = set()
    out: list[tuple[int, ...]] = []
    mood = log_uniform(rng, (0.8, 1.25))  # sunshine: one factor for all defects of a picture
    for _ in range(wanted if cells else 0):
        label = int(rng.choice(3, p=settings.CLASS_MIX))
        for _ in range(25):
            cell = cells[rng.integers(len(cells))]
            found = (_hot_cell, _hot_string, _crack)[label](rng, scene, cell)
            if found is None:
                continue
            ys, xs, mask, core, used = found
            box = _box(core * (1 - plants[ys, xs]), ys, xs)
            if box and label == 2 and max(box[2:]) < settings.MIN_CRACK * scene.scale:
                continue
            hidden = float((blocked[ys, xs] * core).sum() / max(float(core.sum()), 1e-6))
            if box is None or hidden > 0.25 or not taken.isdisjoint(used):
                continue
            peak = mood * settings.CLASS_CONTRAST[label] * log_uniform(rng, settings.CONTRAST)
            heat[ys, xs] += peak * mask
            # Block the neighbours too. Two defects of one class that touch would look like one defect.
            taken.update((c, r, i + a, j + b) for c, r, i, j in used for a in (-1, 0, 1) for b in (-1, 0, 1))
            out.append((label, *box))
            break
    return out
