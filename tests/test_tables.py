"""Tables as text and as HTML, read back with the standard library's own parser."""

from html.parser import HTMLParser

from expandermask import certify, cheeger, inspect_mask
from expandermask.graphs import random_biregular
from expandermask.masks import compare
from expandermask.tables import html_table, text_table


class Cells(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.found, self.open = [], []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        if tag in ("th", "td"):
            self.found.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.found[-1] += data


def test_text():
    assert text_table([("a", "1"), ("long", "2")]) == "a    1\nlong 2"


def test_html_escapes():
    rows = [("<b>", "1 & 2 < 3"), ("name", '"quoted"')]
    assert Cells(html_table(rows)).found == [cell for row in rows for cell in row]


def test_notebooks_show_graphs_and_results():
    graph = random_biregular(12, 6, 3, rng=0)
    cells = Cells(graph._repr_html_()).found
    assert {"12 x 6", "d1 = 3, d2 = 6", "36", "random_biregular", graph.digest} <= set(cells)
    for result in (
        certify(graph),
        cheeger(graph),
        inspect_mask(graph),
        compare(graph, random_biregular(12, 6, 3, rng=1)),
    ):
        assert Cells(result._repr_html_()).found == [cell for row in result.rows() for cell in row]
