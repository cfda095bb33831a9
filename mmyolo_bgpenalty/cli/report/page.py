"""The HTML file of a report."""

import json
from importlib.resources import files
from typing import Any

from jinja2 import Environment

from mmyolo_bgpenalty.cli.report.plots import COLOURS


def page_of(content: dict[str, Any], plots: dict[str, Any]) -> str:
    """The page. ``plots``: SVG and names for the template, which escapes the names.

    Texts of the data are in one JSON block, and the script shows them as text, never as HTML.
    """
    folder = files(__package__)
    parts = {name: folder.joinpath(f'page.{name}').read_text(encoding='utf-8') for name in ('html', 'css', 'js')}
    data = json.dumps(content | dict(colours=COLOURS), allow_nan=False)
    for character in '<>&\u2028\u2029':  # so that no text ends the block
        data = data.replace(character, f'\\u{ord(character):04x}')
    return (
        Environment(autoescape=False)
        .from_string(parts['html'])
        .render(css=parts['css'], js=parts['js'], data=data, **plots)
    )
