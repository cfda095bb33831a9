"""Files as Ultralytics writes them: a pickled YOLOv8, whose classes no longer exist when the file is read."""

import math
import sys
from contextlib import contextmanager
from types import ModuleType

import pytest
import torch
from torch import nn


class Conv(nn.Module):
    def __init__(self, inputs, outputs, kernel=1, stride=1):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)
        self.act = nn.SiLU()

    def forward(self, x):
        return self.act(self.bn(self.conv(x)))


class Bottleneck(nn.Module):
    def __init__(self, width, add):
        super().__init__()
        self.cv1, self.cv2, self.add = Conv(width, width, 3), Conv(width, width, 3), add

    def forward(self, x):
        return x + self.cv2(self.cv1(x)) if self.add else self.cv2(self.cv1(x))


class C2f(nn.Module):
    def __init__(self, inputs, outputs, number, add):
        super().__init__()
        half = outputs // 2
        self.cv1, self.cv2 = Conv(inputs, 2 * half), Conv((2 + number) * half, outputs)
        self.m = nn.ModuleList(Bottleneck(half, add) for _ in range(number))

    def forward(self, x):
        parts = list(self.cv1(x).chunk(2, 1))
        for block in self.m:
            parts.append(block(parts[-1]))
        return self.cv2(torch.cat(parts, 1))


class SPPF(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.cv1, self.cv2, self.m = Conv(width, width // 2), Conv(2 * width, width), nn.MaxPool2d(5, 1, 2)

    def forward(self, x):
        parts = [self.cv1(x)]
        for _ in range(3):
            parts.append(self.m(parts[-1]))
        return self.cv2(torch.cat(parts, 1))


class Concat(nn.Module):
    def forward(self, parts):
        return torch.cat(parts, 1)


class DFL(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(16, 1, 1, bias=False).requires_grad_(False)


class Detect(nn.Module):
    def __init__(self, classes, inputs):
        super().__init__()
        boxes, scores = max(16, inputs[0] // 4, 64), max(inputs[0], min(classes, 100))
        self.cv2 = nn.ModuleList(self.branch(width, boxes, 64) for width in inputs)
        self.cv3 = nn.ModuleList(self.branch(width, scores, classes) for width in inputs)
        self.dfl = DFL()

    @staticmethod
    def branch(inputs, width, outputs):
        return nn.Sequential(Conv(inputs, width, 3), Conv(width, width, 3), nn.Conv2d(width, outputs, 1))

    def forward(self, levels):
        return [(cls(x), self.distances(reg(x))) for cls, reg, x in zip(self.cv3, self.cv2, levels)]

    @staticmethod
    def distances(x):
        shares = x.reshape(len(x), 4, 16, *x.shape[-2:]).softmax(2)
        return (shares * torch.arange(16.0).reshape(16, 1, 1)).sum(2)


class DetectionModel(nn.Module):
    """YOLOv8 as in yolov8.yaml. Each layer reads the one before, or those that ``f`` names."""

    def __init__(self, width, depth, classes):
        super().__init__()
        c = [8 * math.ceil(full * width / 8) for full in (64, 128, 256, 512, 1024)]
        n = [round(number * depth) for number in (3, 6)]
        down = [Conv(3, c[0], 3, 2), Conv(c[0], c[1], 3, 2), C2f(c[1], c[1], n[0], True), Conv(c[1], c[2], 3, 2)]
        down += [C2f(c[2], c[2], n[1], True), Conv(c[2], c[3], 3, 2), C2f(c[3], c[3], n[1], True)]
        down += [Conv(c[3], c[4], 3, 2), C2f(c[4], c[4], n[0], True), SPPF(c[4])]
        up = [nn.Upsample(scale_factor=2), Concat(), C2f(c[4] + c[3], c[3], n[0], False)]
        up += [nn.Upsample(scale_factor=2), Concat(), C2f(c[3] + c[2], c[2], n[0], False)]
        up += [Conv(c[2], c[2], 3, 2), Concat(), C2f(c[2] + c[3], c[3], n[0], False)]
        up += [Conv(c[3], c[3], 3, 2), Concat(), C2f(c[3] + c[4], c[4], n[0], False)]
        self.model = nn.Sequential(*down, *up, Detect(classes, c[2:]))
        self.names = {number: f'class {number}' for number in range(classes)}
        self.yaml = dict(nc=classes, yaml_file='yolov8n.yaml')

    def forward(self, x):
        sources, outputs = {11: (10, 6), 14: (13, 4), 17: (16, 12), 20: (19, 9), 22: (15, 18, 21)}, []
        for number, layer in enumerate(self.model):
            inputs = sources.get(number)
            x = layer([outputs[i] for i in inputs] if inputs else x)
            outputs.append(x)
        return x


PLACES = {
    'ultralytics.nn.tasks': [DetectionModel],
    'ultralytics.nn.modules.conv': [Conv, Concat],
    'ultralytics.nn.modules.block': [C2f, Bottleneck, SPPF, DFL],
    'ultralytics.nn.modules.head': [Detect],
}


@contextmanager
def modules_of(places):
    """Let pickle find classes in modules that exist only here. ``places`` are the classes by module."""
    parents = {name.rsplit('.', level)[0] for name in places for level in range(name.count('.') + 1)}
    own = {cls: cls.__module__ for classes in places.values() for cls in classes}
    with pytest.MonkeyPatch.context() as patch:
        for name in parents:
            patch.setitem(sys.modules, name, ModuleType(name))
        for cls, name in ((cls, name) for name, classes in places.items() for cls in classes):
            patch.setattr(sys.modules[name], cls.__name__, cls, raising=False)
            cls.__module__ = name
        try:
            yield
        finally:
            for cls, module in own.items():
                cls.__module__ = module


def yolov8(width=0.0625, depth=0.33, classes=3):
    """A YOLOv8 in eval mode with random weights and statistics. The width is that of the tiny configs."""
    model = DetectionModel(width, depth, classes).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
    return model


def save_yolov8(path, model, places=PLACES, **entries):
    """Save a model as Ultralytics does, by default with ``ema=None``, and return the path."""
    with modules_of(places):
        torch.save(dict(epoch=-1, model=model, ema=None, optimizer=None, train_args={}) | entries, path)
    return str(path)
