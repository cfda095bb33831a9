"""The site: ``make docs``."""

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / 'docs'))

project = 'mmyolo_bgpenalty'
extensions = ['myst_parser', 'autoapi.extension', 'sphinx.ext.napoleon', 'sphinx.ext.mathjax']
myst_enable_extensions = ['dollarmath', 'colon_fence']
myst_heading_anchors = 3
html_theme = 'furo'
html_title = 'mmyolo_bgpenalty'
html_show_copyright = False
html_use_index = html_domain_indices = False  # the search and the pages of the API are enough
html_static_path = ['_static']
html_css_files = ['site.css']
smartquotes = False  # they would make a dash of --resume in a docstring
exclude_patterns = ['_build']
# The package is read, not imported: the site needs neither torch nor MMCV.
autoapi_dirs = [str(ROOT / 'mmyolo_bgpenalty')]
autoapi_root = 'reference/api'
autoapi_options = ['members', 'show-module-summary']
autoapi_add_toctree_entry = False
autoapi_keep_files = False
autoapi_member_order = 'bysource'


def write_commands(app) -> None:
    """Write reference/commands.md: every command with the description that its --help prints."""
    main = ast.parse((ROOT / 'mmyolo_bgpenalty/__main__.py').read_text(encoding='utf-8'))
    (table,) = (node.value for node in main.body if isinstance(node, ast.Assign) and node.targets[0].id == 'COMMANDS')
    pages = ['# Commands\n\n`python -m mmyolo_bgpenalty COMMAND --help` lists the arguments of a command.']
    for name, (module, _) in ast.literal_eval(table).items():
        file = ROOT / 'mmyolo_bgpenalty/cli' / f'{module.replace(".", "/")}.py'
        text = ast.get_docstring(ast.parse(file.read_text(encoding='utf-8')))
        pages.append(f'## {name}\n\n```text\n{text}\n```')
    target = ROOT / 'docs/reference/commands.md'
    new = '\n\n'.join(pages) + '\n'
    if not target.exists() or target.read_text(encoding='utf-8') != new:
        target.write_text(new, encoding='utf-8')


def skip_member(app, what, name, obj, skip, options) -> bool | None:
    """Leave out the methods of hooks that have only the docstring of MMEngine."""
    return True if str(obj.docstring).startswith('All subclasses should override') else skip


def setup(app) -> None:
    app.connect('autoapi-skip-member', skip_member)
    app.connect('builder-inited', write_commands)
