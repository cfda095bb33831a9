"""Everything in a picture that is not labeled: healthy modules, their surroundings, and distractors."""

import math

import cv2
import numpy as np

from mmyolo_bgpenalty.datasets.solar_panels import settings
from mmyolo_bgpenalty.datasets.solar_panels.scene import Scene, log_uniform, step, texture, value_noise


def background(rng: np.random.Generator, scene: Scene) -> np.ndarray:
    """Temperature of the ground around the modules, and sometimes of sky at the top. float32, (H, W)."""
    h, w, k = scene.h, scene.w, scene.scale
    kind = rng.integers(4)
    base = rng.uniform(-45, 35)
    if kind == 0:  # soil
        ground = base + texture(rng, h, w, (60 * k, 8), (14 * k, 5), (4, 3))
    elif kind == 1:  # grass
        ground = base - 12 + texture(rng, h, w, (40 * k, 6), (6, 8), (2.5, 9))
    elif kind == 2:  # tiled or corrugated roof
        period = rng.uniform(0.5, 1.6)
        along = scene.u if rng.random() < 0.5 else scene.v
        ground = base + 10 + rng.uniform(3, 12) * np.sin(along * (2 * np.pi / period))
        ground += 4 * value_noise(rng, h, w, 30 * k)
    else:  # gravel or concrete
        ground = base + 5 + texture(rng, h, w, (80 * k, 7), (5, 4))
    if rng.random() < 0.25:
        y = np.arange(h, dtype=np.float32)[:, None]
        sky = rng.uniform(-75, -35) + 0.08 * y + 3 * value_noise(rng, h, w, 90 * k)
        horizon = h * rng.uniform(0.2, 0.45) + 6 * k * value_noise(rng, h, w, 25 * k)
        ground = ground + step(horizon - y, 4) * (sky - ground)
    return ground


def modules(rng: np.random.Generator, scene: Scene) -> np.ndarray:
    """Temperature of the healthy modules (about 0), their frames, gaps and junction boxes. float32, (H, W)."""
    px = scene.px
    by_module = rng.normal(0, rng.uniform(1, 4), 1024).astype(np.float32)
    by_cell = rng.normal(0, rng.uniform(*settings.CELL_JITTER), 4096).astype(np.float32)
    module = ((scene.row & 31) << 5) + (scene.column & 31)
    down, right = scene.row * scene.rows + scene.cj, scene.column * scene.cols + scene.ci
    heat = by_module[module] + by_cell[((down & 63) << 6) + (right & 63)]
    heat += rng.uniform(-7, 7) * (scene.cv / scene.rows - 0.5) + rng.uniform(-4, 4) * (scene.cu / scene.cols - 0.5)
    heat += rng.uniform(1, 4.5) * value_noise(rng, scene.h, scene.w, 55 * scene.scale)

    fu, fv = scene.cu - np.floor(scene.cu), scene.cv - np.floor(scene.cv)
    bars = int(rng.integers(2, 5))
    along = fu if rng.random() < 0.5 else fv
    along = along * bars
    phase = np.abs(along - np.floor(along) - 0.5) / bars
    heat += rng.uniform(-3.5, 2.5) * step(0.02 - phase, 1.5 / px)
    gap = np.minimum(np.minimum(fu, 1 - fu), np.minimum(fv, 1 - fv))
    gap_heat = rng.uniform(6, 22) * (-1 if rng.random() < 0.72 else 0.7)
    heat += gap_heat * step(rng.uniform(0.02, 0.05) - gap, 1.3 / px)

    frame = rng.uniform(-32, 4) if rng.random() < 0.75 else rng.uniform(4, 30)
    heat += step(-scene.inner, 1.3 / px) * (0.35 * frame - heat)
    heat += step(0.11 - scene.edge, 1.3 / px) * (frame - heat)

    if rng.random() < settings.P_JUNCTION:
        at = rng.uniform(0.45, 0.9)
        half_u, half_v = rng.uniform(0.35, 0.6), rng.uniform(0.18, 0.32)
        off = np.maximum(np.abs(scene.lu - scene.mw / 2) - half_u, np.abs(scene.lv - scene.margin - at) - half_v)
        level = (1 + 0.35 * rng.standard_normal(1024, dtype=np.float32))[module]
        heat += rng.uniform(5, 24) * level * step(-off, rng.uniform(0.12, 0.3))
    if rng.random() < settings.P_WARM_EDGE:
        side = (scene.lv, scene.mh - scene.lv, scene.lu, scene.mw - scene.lu)[rng.integers(4)]
        chosen = (rng.random(1024) < 0.5).astype(np.float32)[module]
        heat += rng.uniform(8, 28) * chosen * np.exp(-np.maximum(side, 0) / rng.uniform(0.2, 0.55))
    return heat


def _ellipse(scene: Scene, x: float, y: float, a: float, b: float, angle: float) -> np.ndarray:
    """Squared distance of each pixel from (x, y), in units of the half axes ``a`` and ``b`` (pixels)."""
    dx = np.arange(scene.w, dtype=np.float32)[None] - x
    dy = np.arange(scene.h, dtype=np.float32)[:, None] - y
    c, s = math.cos(angle), math.sin(angle)
    return ((c * dx + s * dy) / a) ** 2 + ((c * dy - s * dx) / b) ** 2


def reflections(rng: np.random.Generator, scene: Scene) -> np.ndarray:
    """Sun on the glass: bright blobs and streaks, 0 outside the modules. float32, (H, W)."""
    out = np.zeros((scene.h, scene.w), np.float32)
    for _ in range(rng.integers(1, 4)):
        x, y, angle = rng.uniform(0, scene.w), rng.uniform(0, scene.h), rng.uniform(0, np.pi)
        if rng.random() < 0.65:
            b = rng.uniform(4, 13) * scene.scale
            a = b * rng.uniform(1, 2.2)
        else:
            a, b = rng.uniform(25, 80) * scene.scale, rng.uniform(2.5, 6) * scene.scale
        r2 = _ellipse(scene, x, y, a, b, angle)
        power = int(rng.integers(1, 3))  # 2 gives a flat top, like a saturated spot
        out += log_uniform(rng, settings.DISTRACTOR_CONTRAST) * (np.exp(-(r2**power)) + 0.15 * np.exp(-r2 / 6))
    return out * scene.module


def droppings(rng: np.random.Generator, scene: Scene) -> np.ndarray:
    """Bird droppings: small irregular warm or cold spots. float32, (H, W)."""
    out = np.zeros((scene.h, scene.w), np.float32)
    for _ in range(rng.integers(1, 6)):
        stain = np.zeros((scene.h, scene.w), np.uint8)
        x, y = rng.uniform(0, scene.w), rng.uniform(0, scene.h)
        for _ in range(rng.integers(2, 7)):
            spot = rng.normal((x, y), 2.2 * scene.scale) * 16
            radius = int(rng.uniform(0.8, 2.6) * scene.scale * 16)
            cv2.circle(stain, [int(c) for c in spot], radius, 255, -1, cv2.LINE_AA, 4)
        sign = 1 if rng.random() < 0.55 else -1
        out += stain * np.float32(sign * log_uniform(rng, settings.DISTRACTOR_CONTRAST) / 255)
    return out * scene.module


def cable(rng: np.random.Generator, scene: Scene) -> np.ndarray:
    """A thin cable, or its shadow, across the picture. float32, (H, W)."""
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


def shadow(rng: np.random.Generator, scene: Scene) -> np.ndarray:
    """Share of sunlight that the shadow of a mast (a band) or a wall (a half plane) takes away, 0 to 1, (H, W)."""
    angle, half = rng.uniform(0, np.pi), rng.uniform(5, 28) * scene.scale
    x = np.arange(scene.w, dtype=np.float32)[None] - rng.uniform(0.1, 0.9) * scene.w
    y = np.arange(scene.h, dtype=np.float32)[:, None] - rng.uniform(0.1, 0.9) * scene.h
    across = x * math.cos(angle) + y * math.sin(angle)
    off = half - np.abs(across) if rng.random() < 0.6 else across - 2 * half
    return step(off, rng.uniform(2, 8))


def vegetation(rng: np.random.Generator, scene: Scene) -> np.ndarray:
    """Opacity of plants that grow into the picture from one side, 0 to 1, (H, W)."""
    h, w, k = scene.h, scene.w, scene.scale
    y, x = np.mgrid[:h, :w].astype(np.float32)
    depth = (y / h, x / w, 1 - x / w)[rng.choice(3, p=(0.6, 0.2, 0.2))]
    ragged = texture(rng, h, w, (50 * k, 0.1), (15 * k, 0.1), (5, 0.09), (2.5, 0.06))
    return step(depth + ragged - rng.uniform(0.78, 0.98), 0.06)
