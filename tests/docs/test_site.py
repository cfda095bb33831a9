"""The style sheet of the site."""

import re

from tests.helpers.tiny import ROOT


def test_the_style_sheet_names_headings_that_exist():
    """Some rules are for the tables below one heading. A heading that is renamed would lose them without a word."""
    pages = [page for page in (ROOT / 'docs').rglob('*.md') if '_build' not in page.parts]
    headings = {title for page in pages for title in re.findall(r'^#+ (.+)$', page.read_text(encoding='utf-8'), re.M)}
    names = {re.sub(r'[^a-z0-9]+', '-', title.lower()).strip('-') for title in headings}
    css = re.sub(r'#[0-9a-f]{3,6};', '', (ROOT / 'docs/_static/site.css').read_text(encoding='utf-8'))
    wanted = set(re.findall(r'#([a-z][a-z-]+)', css))
    assert len(wanted) > 4 and wanted <= names
