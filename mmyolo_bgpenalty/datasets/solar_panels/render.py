"""Render one synthetic infrared picture of photovoltaic modules and the boxes of its defects. NumPy and OpenCV only.

A picture depends only on (index, seed, size) and the constants in ``settings``.
"""

import cv2
import numpy as np

from mmyolo_bgpenalty.datasets.solar_panels import settings
from mmyolo_bgpenalty.datasets.solar_panels.defects import defects
from mmyolo_bgpenalty.datasets.solar_panels.scene import Scene, log_uniform, texture
from mmyolo_bgpenalty.datasets.solar_panels.surroundings import (
    background,
    cable,
    droppings,
    modules,
    reflections,
    shadow,
    vegetation,
)


def render(index: int, seed: int, size: tuple[int, int] = (320, 256)) -> tuple[np.ndarray, list[tuple[int, ...]]]:
    """The picture, uint8, (height, width), and (class, x, y, width, height) of each defect.

    Boxes are in whole pixels, lie inside the picture, and have sides >= MIN_BOX. The class is an index into CLASSES.

    Args:
        index, seed: whole numbers >= 0.
        size: width and height in pixels, each >= MIN_SIDE.
    """
    w, h = size
    rng = np.random.default_rng([seed, index])
    scene = Scene(rng, w, h)
    heat = modules(rng, scene).astype(np.float32)
    blocked = np.zeros((h, w), np.float32)
    if rng.random() < settings.P_REFLECTION:
        glare = reflections(rng, scene)
        heat += glare
        blocked = np.maximum(blocked, np.clip(glare / 20, 0, 1))
    if rng.random() < settings.P_DROPPINGS:
        stains = droppings(rng, scene)
        heat += stains
        blocked = np.maximum(blocked, np.abs(stains) > 5)
    plants = vegetation(rng, scene) if rng.random() < settings.P_VEGETATION else np.zeros((h, w), np.float32)
    boxes = defects(rng, scene, heat, blocked, plants)

    heat = heat * scene.module + background(rng, scene) * (1 - scene.module)
    if rng.random() < settings.P_SHADOW:
        heat -= rng.uniform(8, 26) * shadow(rng, scene)
    if rng.random() < settings.P_CABLE:
        heat += cable(rng, scene)
    if plants.any():
        leaves = rng.uniform(-45, -8) + texture(rng, h, w, (8, 8), (2.5, 7))
        heat += plants * (leaves - heat)

    heat = cv2.GaussianBlur(heat.astype(np.float32), (0, 0), rng.uniform(*settings.BLUR))
    y, x = np.ogrid[-1 : 1 : h * 1j, -1 : 1 : w * 1j]
    heat -= (rng.uniform(0, 14) * (x * x + y * y) / 2).astype(np.float32)
    grey = rng.uniform(88, 140) + log_uniform(rng, settings.GAIN) * heat
    if rng.random() < settings.P_BLACK_HOT:
        grey = 255 - grey
    grey += rng.uniform(*settings.FIXED_PATTERN) * rng.standard_normal((1, w), dtype=np.float32)
    grey += rng.uniform(*settings.NOISE) * rng.standard_normal((h, w), dtype=np.float32)
    return np.clip(np.rint(grey), 0, 255).astype(np.uint8), boxes
