"""Names of classes as parts of the names of metrics."""

import re
import unicodedata
from collections.abc import Iterable

LONGEST = 60  # characters. MLflow's file store makes a file of each name


def metric_names(classes: Iterable) -> list[str]:
    """A name for each class that all visualizer backends of MMEngine accept as a part of a metric's name.

    Letters, digits, spaces and ``_ - .`` stay, every other character becomes ``_``. MLflow refuses other characters. A
    ``/`` would make a folder, which may have the name of another metric. A name that would equal an earlier one gets a
    number: ``crack_2``. TensorBoard also writes ``_`` for a space.
    """
    names: list[str] = []
    taken: set[str] = set()
    for one in classes:
        plain = name = re.sub(r'[^\w. -]', '_', unicodedata.normalize('NFC', str(one)))[:LONGEST]
        number = 1
        while name.replace(' ', '_') in taken:
            number += 1
            name = f'{plain}_{number}'
        taken.add(name.replace(' ', '_'))
        names.append(name)
    return names
