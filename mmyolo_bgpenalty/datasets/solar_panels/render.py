"""One infrared-like picture of photovoltaic modules, with the boxes of its defects.

Labeled are hot cells, hot strings and cracks; reflections, junction boxes, droppings, warm edges, shadows,
vegetation and cables are drawn too, but never labeled. A picture is a function of (index, seed, size) and the
constants below. NumPy and OpenCV only.
"""

import math
from typing import List, Set, Tuple

import cv2
import numpy as np

CLASSES = ('hot_cell', 'hot_string', 'crack')
VERSION = 1  # raise when render changes; the constants below are part of the stamp by themselves

# What steers the difficulty. Temperatures are in grey levels before the gain; ranges are (low, high).
CONTRAST = (24.0, 80.0)  # of a defect's peak over its surroundings, log-uniform
CLASS_MIX = (0.45, 0.3, 0.25)  # share of hot_cell, hot_string, crack
CLASS_CONTRAST = (1.0, 0.72, 1.1)  # factor on CONTRAST by class
P_EMPTY = 0.26  # share of images without any defect
MEAN_EXTRA = 1.9  # defects beyond the first, Poisson mean, in an image that has any
MAX_DEFECTS = 6
CELL_PX = (18.0, 36.0)  # side of a cell in pixels at 320x256, log-uniform
STRING_CELLS = (3, 6)  # cells of a hot string, the upper end left out
ANGLE_SD = 9.0  # degrees of rotation about the nearest quarter turn
PERSPECTIVE = 0.24  # largest relative change of scale between centre and border
CELL_JITTER = (0.7, 3.0)  # sd of healthy cells' temperatures
NOISE = (1.4, 4.2)  # sd of the sensor noise
FIXED_PATTERN = (0.3, 1.5)  # sd of the column offsets
BLUR = (0.5, 1.2)  # sigma of the optics in pixels
GAIN = (0.8, 1.9)
P_BLACK_HOT = 0.12  # share of images with inverted polarity
P_REFLECTION = 0.35
P_DROPPINGS = 0.35
P_WARM_EDGE = 0.25
P_SHADOW = 0.22
P_VEGETATION = 0.18
P_CABLE = 0.22
P_JUNCTION = 0.65
DISTRACTOR_CONTRAST = (12.0, 58.0)

MIN_SIDE = 96  # smallest image side
MIN_BOX = 8  # smallest box side in pixels
MIN_CRACK = 20  # smallest longer side of a crack's box in pixels at 320x256; below it looks like a stain
EDGE = 0.4  # a box encloses the pixels above this share of its defect's peak


def _log_uniform(rng, low_high):
    return float(np.exp(rng.uniform(*np.log(low_high))))


def _step(distance, width):
    """Soft step: 0 below -width/2, 1 above width/2, linear between."""
    return np.clip(distance / width + 0.5, 0, 1)


def _value_noise(rng, h, w, grain):
    """Smooth noise, float32 HxW, mean about 0, sd about 0.7, with blobs of about `grain` pixels."""
    coarse = rng.standard_normal((math.ceil(h / grain) + 2, math.ceil(w / grain) + 2), dtype=np.float32)
    shape = int(coarse.shape[1] * grain), int(coarse.shape[0] * grain)
    full = cv2.resize(coarse, shape, interpolation=cv2.INTER_CUBIC)
    return full[int(grain / 2) :, int(grain / 2) :][:h, :w]


def _texture(rng, h, w, *octaves):
    """Sum of value noises, each given as (grain in pixels, weight)."""
    return sum(weight * _value_noise(rng, h, w, grain) for grain, weight in octaves)


class _Scene:
    """Camera and module layout of one picture: maps pixels to the module plane, whose unit is one cell."""

    def __init__(self, rng, w, h):
        self.w, self.h = w, h
        self.scale = min(w / 320, h / 256)
        self.px = _log_uniform(rng, CELL_PX) * self.scale
        self.cols, self.rows = ((6, 10), (10, 6), (6, 10), (6, 8), (6, 12), (4, 9))[rng.integers(6)]
        self.margin = rng.uniform(0.15, 0.32)
        self.mw, self.mh = self.cols + 2 * self.margin, self.rows + 2 * self.margin
        self.pitch_u = self.mw + rng.uniform(0.08, 0.5)
        self.pitch_v = self.mh + rng.uniform(0.08, 0.6)
        self.stack = int(rng.integers(1, 4))  # modules one above the other in a table
        self.table = self.stack * self.pitch_v + rng.uniform(2, 9)
        self.first, self.last = -99, 99  # columns of modules
        if rng.random() < 0.3:
            if rng.random() < 0.5:
                self.first = 0
            else:
                self.last = 0
        u0 = rng.uniform(0, self.pitch_u)
        v0 = rng.uniform(0.15, 0.85) * self.stack * self.pitch_v
        turn = math.radians(90 * int(rng.integers(4)) + rng.normal(0, ANGLE_SD))
        c, s = math.cos(turn), math.sin(turn)
        squeeze = rng.uniform(0.75, 1.0)  # foreshortening of an oblique view
        to_image = np.diag([self.px, self.px * squeeze, 1.0]) @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])
        to_image = to_image @ np.array([[1, 0, -u0], [0, 1, -v0], [0, 0, 1.0]])
        tilt = np.eye(3)
        tilt[2, 0] = rng.uniform(-0.5, 0.5) * PERSPECTIVE / (w / 2)
        tilt[2, 1] = rng.uniform(-1, 1) * PERSPECTIVE / (h / 2)
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
        self.module = _step(self.edge, 1 / self.px)
        self.column = column.astype(np.int32)
        self.row = (table * self.stack + np.minimum(row, self.stack - 1)).astype(np.int32)
        self.cu = self.lu - self.margin
        self.cv = self.lv - self.margin
        self.ci = np.clip(np.floor(self.cu), 0, self.cols - 1).astype(np.int32)
        self.cj = np.clip(np.floor(self.cv), 0, self.rows - 1).astype(np.int32)
        self.inner = np.minimum(np.minimum(self.cu, self.cols - self.cu), np.minimum(self.cv, self.rows - self.cv))

    def cells(self):
        """Cells seen in the picture: int array (n, 4) of module column, module row, cell column, cell row."""
        part = slice(None, None, 4), slice(None, None, 4)
        pick = (self.inner[part] > 0) & (self.edge[part] > 0)
        keys = [a[part][pick].astype(np.int64) for a in (self.column, self.row, self.ci, self.cj)]
        bases = 4096, 4096, 16, 16
        packed = np.ravel_multi_index((keys[0] + 2048, keys[1] + 2048, keys[2], keys[3]), bases)
        found = np.stack(np.unravel_index(np.unique(packed), bases), 1)
        return found - (2048, 2048, 0, 0)

    def corner(self, column, row, i=0, j=0):
        """Plane coordinates of the upper left corner of cell (i, j) of a module."""
        table, inside = divmod(int(row), self.stack)
        u = column * self.pitch_u + self.margin + i
        return float(u), float(table * self.table + inside * self.pitch_v + self.margin + j)

    def project(self, points):
        """Pixels (n, 2) of plane points (n, 2)."""
        p = np.c_[np.asarray(points, float), np.ones(len(points))] @ self.matrix.T
        return p[:, :2] / p[:, 2:]

    def window(self, points, pad):
        """Slices of the picture around the projected points, `pad` pixels wider, and the share inside."""
        p = self.project(points)
        low, high = p.min(0), p.max(0)
        x0, y0 = np.clip(np.floor(low - pad), 0, (self.w, self.h)).astype(int)
        x1, y1 = np.clip(np.ceil(high + pad), 0, (self.w, self.h)).astype(int)
        inside = np.maximum(np.minimum(high, (self.w, self.h)) - np.maximum(low, 0), 0)
        return slice(y0, y1), slice(x0, x1), float(np.prod(inside / (high - low)))


def _background(rng, scene):
    """Temperature of what lies around the modules: soil, grass, roof or (only above, in the image) sky."""
    h, w, k = scene.h, scene.w, scene.scale
    kind = rng.integers(4)
    base = rng.uniform(-45, 35)
    if kind == 0:  # soil
        ground = base + _texture(rng, h, w, (60 * k, 8), (14 * k, 5), (4, 3))
    elif kind == 1:  # grass
        ground = base - 12 + _texture(rng, h, w, (40 * k, 6), (6, 8), (2.5, 9))
    elif kind == 2:  # tiled or corrugated roof
        period = rng.uniform(0.5, 1.6)
        along = scene.u if rng.random() < 0.5 else scene.v
        ground = base + 10 + rng.uniform(3, 12) * np.sin(along * (2 * np.pi / period))
        ground += 4 * _value_noise(rng, h, w, 30 * k)
    else:  # gravel or concrete
        ground = base + 5 + _texture(rng, h, w, (80 * k, 7), (5, 4))
    if rng.random() < 0.25:
        y = np.arange(h, dtype=np.float32)[:, None]
        sky = rng.uniform(-75, -35) + 0.08 * y + 3 * _value_noise(rng, h, w, 90 * k)
        horizon = h * rng.uniform(0.2, 0.45) + 6 * k * _value_noise(rng, h, w, 25 * k)
        ground = ground + _step(horizon - y, 4) * (sky - ground)
    return ground


def _modules(rng, scene):
    """Temperature of the healthy modules, about 0, and of their frames, gaps and junction boxes."""
    px = scene.px
    by_module = rng.normal(0, rng.uniform(1, 4), 1024).astype(np.float32)
    by_cell = rng.normal(0, rng.uniform(*CELL_JITTER), 4096).astype(np.float32)
    module = ((scene.row & 31) << 5) + (scene.column & 31)
    down, right = scene.row * scene.rows + scene.cj, scene.column * scene.cols + scene.ci
    heat = by_module[module] + by_cell[((down & 63) << 6) + (right & 63)]
    heat += rng.uniform(-7, 7) * (scene.cv / scene.rows - 0.5) + rng.uniform(-4, 4) * (scene.cu / scene.cols - 0.5)
    heat += rng.uniform(1, 4.5) * _value_noise(rng, scene.h, scene.w, 55 * scene.scale)

    fu, fv = scene.cu - np.floor(scene.cu), scene.cv - np.floor(scene.cv)
    bars = int(rng.integers(2, 5))
    along = fu if rng.random() < 0.5 else fv
    along = along * bars
    phase = np.abs(along - np.floor(along) - 0.5) / bars
    heat += rng.uniform(-3.5, 2.5) * _step(0.02 - phase, 1.5 / px)
    gap = np.minimum(np.minimum(fu, 1 - fu), np.minimum(fv, 1 - fv))
    gap_heat = rng.uniform(6, 22) * (-1 if rng.random() < 0.72 else 0.7)
    heat += gap_heat * _step(rng.uniform(0.02, 0.05) - gap, 1.3 / px)

    frame = rng.uniform(-32, 4) if rng.random() < 0.75 else rng.uniform(4, 30)
    heat += _step(-scene.inner, 1.3 / px) * (0.35 * frame - heat)
    heat += _step(0.11 - scene.edge, 1.3 / px) * (frame - heat)

    if rng.random() < P_JUNCTION:
        at = rng.uniform(0.45, 0.9)
        half_u, half_v = rng.uniform(0.35, 0.6), rng.uniform(0.18, 0.32)
        off = np.maximum(np.abs(scene.lu - scene.mw / 2) - half_u, np.abs(scene.lv - scene.margin - at) - half_v)
        level = (1 + 0.35 * rng.standard_normal(1024, dtype=np.float32))[module]
        heat += rng.uniform(5, 24) * level * _step(-off, rng.uniform(0.12, 0.3))
    if rng.random() < P_WARM_EDGE:
        side = (scene.lv, scene.mh - scene.lv, scene.lu, scene.mw - scene.lu)[rng.integers(4)]
        chosen = (rng.random(1024) < 0.5).astype(np.float32)[module]
        heat += rng.uniform(8, 28) * chosen * np.exp(-np.maximum(side, 0) / rng.uniform(0.2, 0.55))
    return heat


def _ellipse(scene, x, y, a, b, angle):
    """Squared normalised radius about (x, y) for half axes a, b (pixels), over the whole picture."""
    dx = np.arange(scene.w, dtype=np.float32)[None] - x
    dy = np.arange(scene.h, dtype=np.float32)[:, None] - y
    c, s = math.cos(angle), math.sin(angle)
    return ((c * dx + s * dy) / a) ** 2 + ((c * dy - s * dx) / b) ** 2


def _reflections(rng, scene):
    """Sun on the glass: bright blobs and streaks that ignore the grid; float32 HxW, 0 off the modules."""
    out = np.zeros((scene.h, scene.w), np.float32)
    for _ in range(rng.integers(1, 4)):
        x, y, angle = rng.uniform(0, scene.w), rng.uniform(0, scene.h), rng.uniform(0, np.pi)
        if rng.random() < 0.65:
            b = rng.uniform(4, 13) * scene.scale
            a = b * rng.uniform(1, 2.2)
        else:
            a, b = rng.uniform(25, 80) * scene.scale, rng.uniform(2.5, 6) * scene.scale
        r2 = _ellipse(scene, x, y, a, b, angle)
        power = int(rng.integers(1, 3))  # 2: flat top, as of a saturated spot
        out += _log_uniform(rng, DISTRACTOR_CONTRAST) * (np.exp(-(r2**power)) + 0.15 * np.exp(-r2 / 6))
    return out * scene.module


def _droppings(rng, scene):
    """Bird droppings: small irregular warm or cold spots; float32 HxW."""
    out = np.zeros((scene.h, scene.w), np.float32)
    for _ in range(rng.integers(1, 6)):
        stain = np.zeros((scene.h, scene.w), np.uint8)
        x, y = rng.uniform(0, scene.w), rng.uniform(0, scene.h)
        for _ in range(rng.integers(2, 7)):
            spot = rng.normal((x, y), 2.2 * scene.scale) * 16
            radius = int(rng.uniform(0.8, 2.6) * scene.scale * 16)
            cv2.circle(stain, [int(c) for c in spot], radius, 255, -1, cv2.LINE_AA, 4)
        sign = 1 if rng.random() < 0.55 else -1
        out += stain * np.float32(sign * _log_uniform(rng, DISTRACTOR_CONTRAST) / 255)
    return out * scene.module


def _cable(rng, scene):
    """A smooth thin cable, or its shadow, across the picture; float32 HxW."""
    t = np.linspace(0, 1, 40)[:, None]
    ends = rng.uniform(-0.1, 1.1, (4, 2)) * (scene.w, scene.h)
    axis = rng.integers(2)
    ends[0, axis], ends[3, axis] = -10, (scene.w, scene.h)[axis] + 10
    ends[1:3] = ends[[0, 3]] * 0.65 + ends[[3, 0]] * 0.35 + rng.normal(0, 25 * scene.scale, (2, 2))
    curve = (1 - t) ** 3 * ends[0] + 3 * t * (1 - t) ** 2 * ends[1] + 3 * t**2 * (1 - t) * ends[2] + t**3 * ends[3]
    line = np.zeros((scene.h, scene.w), np.uint8)
    width = int(rng.integers(1, 4))
    cv2.polylines(line, [(curve * 16).astype(np.int32)], False, 255, width, cv2.LINE_AA, 4)
    return line * np.float32((1 if rng.random() < 0.5 else -1) * rng.uniform(8, 30) / 255)


def _shadow(rng, scene):
    """Share of sunlight lost, 0..1: a band (mast, ridge) or a half plane (next row, wall)."""
    angle, half = rng.uniform(0, np.pi), rng.uniform(5, 28) * scene.scale
    x = np.arange(scene.w, dtype=np.float32)[None] - rng.uniform(0.1, 0.9) * scene.w
    y = np.arange(scene.h, dtype=np.float32)[:, None] - rng.uniform(0.1, 0.9) * scene.h
    across = x * math.cos(angle) + y * math.sin(angle)
    off = half - np.abs(across) if rng.random() < 0.6 else across - 2 * half
    return _step(off, rng.uniform(2, 8))


def _vegetation(rng, scene):
    """Opacity 0..1 of plants in front of the modules, grown in from one side of the picture."""
    h, w, k = scene.h, scene.w, scene.scale
    y, x = np.mgrid[:h, :w].astype(np.float32)
    depth = (y / h, x / w, 1 - x / w)[rng.choice(3, p=(0.6, 0.2, 0.2))]
    ragged = _texture(rng, h, w, (50 * k, 0.1), (15 * k, 0.1), (5, 0.09), (2.5, 0.06))
    return _step(depth + ragged - rng.uniform(0.78, 0.98), 0.06)


def _hot_cell(rng, scene, cell):
    """(slices, mask 0..1) of one warm cell or a part of one, or None where it does not show in full."""
    u0, v0 = scene.corner(*cell)
    ys, xs, seen = scene.window([(u0, v0), (u0 + 1, v0), (u0, v0 + 1), (u0 + 1, v0 + 1)], 0.35 * scene.px)
    if seen < 0.9:
        return None
    x, y = scene.u[ys, xs] - u0 - 0.5, scene.v[ys, xs] - v0 - 0.5
    soft = rng.uniform(0.1, 0.25)
    body = _step(0.49 - np.abs(x), soft) * _step(0.49 - np.abs(y), soft)
    kind = rng.random()
    if kind < 0.62:
        x1, y1 = rng.uniform(-0.25, 0.25, 2)
        body = body * (1 - rng.uniform(0.1, 0.5) * np.minimum((x - x1) ** 2 + (y - y1) ** 2, 0.8))
    elif kind < 0.82:  # part of the cell, cut off by a crack through it
        turn = rng.choice(4) * np.pi / 2 + rng.normal(0, 0.25)
        body = body * _step(x * math.cos(turn) + y * math.sin(turn) + rng.uniform(0.0, 0.2), soft)
    else:  # spot inside the cell
        x1, y1 = rng.uniform(-0.15, 0.15, 2)
        sd = rng.uniform(0.26, 0.36)
        body = body * np.exp(-((x - x1) ** 2 + (y - y1) ** 2) / (2 * sd * sd))
    return ys, xs, body / max(float(body.max()), 1e-6)


def _hot_string(rng, scene, cell):
    """(slices, mask 0..1, used cells) of a warm run of cells in a line: a string that its bypass diode cut off."""
    column, row, i, j = cell
    upright = scene.rows >= scene.cols
    length = min(int(rng.integers(*STRING_CELLS)), scene.rows if upright else scene.cols)
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
    return ys, xs, _step(inside + 0.02, rng.uniform(0.08, 0.2)) * patches[b, a], used


def _crack(rng, scene, cell):
    """(slices, mask 0..1, core, used cells) of a branching polyline that stays within its module."""
    column, row, i, j = cell
    u0, v0 = scene.corner(column, row)
    reach = rng.uniform(34, 76) * scene.scale / scene.px
    start = np.array([i, j]) + rng.uniform(0.15, 0.85, 2)
    heading = rng.uniform(0, 2 * np.pi)

    def walk(point, angle, length):
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
    if len(paths[0]) < 4:  # ran off its module at once
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
    return ys, xs, core + rng.uniform(0.3, 0.8) * glow, core, list(used)


def _box(mask, ys, xs):
    """Smallest (x, y, w, h) in whole pixels around mask > EDGE, or None below MIN_BOX."""
    hot = mask > EDGE
    rows, cols = np.flatnonzero(hot.any(1)), np.flatnonzero(hot.any(0))
    if not len(rows) or min(rows[-1] - rows[0], cols[-1] - cols[0]) + 1 < MIN_BOX:
        return None
    y, x = ys.start + rows[0], xs.start + cols[0]
    return int(x), int(y), int(cols[-1] - cols[0] + 1), int(rows[-1] - rows[0] + 1)


def _defects(rng, scene, heat, glare, plants):
    """Adds defects to `heat` (in place); list of (class, x, y, w, h).

    `glare` and `plants`, 0..1, say where a defect could not be told or seen: it is put where at most a
    quarter of it is lost, and its box encloses what the plants leave of it.
    """
    if rng.random() < P_EMPTY:
        return []
    blocked = np.maximum(glare, plants)
    cells = [tuple(int(c) for c in row) for row in scene.cells()]
    wanted = min(1 + int(rng.poisson(MEAN_EXTRA)), MAX_DEFECTS)
    taken: Set[Tuple[int, ...]] = set()
    out: List[Tuple[int, ...]] = []
    mood = _log_uniform(rng, (0.8, 1.25))  # sunshine: the defects of one picture share a part of their contrast
    for _ in range(wanted if cells else 0):
        label = int(rng.choice(3, p=CLASS_MIX))
        for _ in range(25):
            cell = cells[rng.integers(len(cells))]
            if label == 0:
                found = _hot_cell(rng, scene, cell)
                found = found and (*found, found[2], [cell])
            elif label == 1:
                found = _hot_string(rng, scene, cell)
                found = found and (*found[:3], found[2], found[3])
            else:
                found = _crack(rng, scene, cell)
            if found is None:
                continue
            ys, xs, mask, core, used = found
            box = _box(core * (1 - plants[ys, xs]), ys, xs)
            if box and label == 2 and max(box[2:]) < MIN_CRACK * scene.scale:
                continue
            hidden = float((blocked[ys, xs] * core).sum() / max(float(core.sum()), 1e-6))
            if box is None or hidden > 0.25 or not taken.isdisjoint(used):
                continue
            peak = mood * CLASS_CONTRAST[label] * _log_uniform(rng, CONTRAST)
            heat[ys, xs] += peak * mask
            # neighbours too: two touching defects of a class could not be told from one
            taken.update((c, r, i + a, j + b) for c, r, i, j in used for a in (-1, 0, 1) for b in (-1, 0, 1))
            out.append((label, *box))
            break
    return out


def render(index, seed, size=(320, 256)):
    """One picture: (uint8 array height x width, list of (class id, x, y, w, h)).

    `size` is (width, height) in pixels, each at least MIN_SIDE; `index` and `seed` are whole numbers >= 0.
    Boxes are whole pixels inside the picture, at least MIN_BOX a side; the class id indexes CLASSES.
    """
    w, h = size
    rng = np.random.default_rng([seed, index])
    scene = _Scene(rng, w, h)
    heat = _modules(rng, scene).astype(np.float32)
    blocked = np.zeros((h, w), np.float32)
    if rng.random() < P_REFLECTION:
        glare = _reflections(rng, scene)
        heat += glare
        blocked = np.maximum(blocked, np.clip(glare / 20, 0, 1))
    if rng.random() < P_DROPPINGS:
        stains = _droppings(rng, scene)
        heat += stains
        blocked = np.maximum(blocked, np.abs(stains) > 5)
    plants = _vegetation(rng, scene) if rng.random() < P_VEGETATION else np.zeros((h, w), np.float32)
    boxes = _defects(rng, scene, heat, blocked, plants)

    heat = heat * scene.module + _background(rng, scene) * (1 - scene.module)
    if rng.random() < P_SHADOW:
        heat -= rng.uniform(8, 26) * _shadow(rng, scene)
    if rng.random() < P_CABLE:
        heat += _cable(rng, scene)
    if plants.any():
        leaves = rng.uniform(-45, -8) + _texture(rng, h, w, (8, 8), (2.5, 7))
        heat += plants * (leaves - heat)

    heat = cv2.GaussianBlur(heat.astype(np.float32), (0, 0), rng.uniform(*BLUR))
    y, x = np.ogrid[-1 : 1 : h * 1j, -1 : 1 : w * 1j]
    heat -= (rng.uniform(0, 14) * (x * x + y * y) / 2).astype(np.float32)
    grey = rng.uniform(88, 140) + _log_uniform(rng, GAIN) * heat
    if rng.random() < P_BLACK_HOT:
        grey = 255 - grey
    grey += rng.uniform(*FIXED_PATTERN) * rng.standard_normal((1, w), dtype=np.float32)
    grey += rng.uniform(*NOISE) * rng.standard_normal((h, w), dtype=np.float32)
    return np.clip(np.rint(grey), 0, 255).astype(np.uint8), boxes
