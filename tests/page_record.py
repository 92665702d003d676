"""A record with the files that trials keep, and a page taken apart: what the tests of the page look at."""

import html.parser
import io
import itertools
import json

import numpy as np
from PIL import Image

from pipeline.card import card, card_text
from reports.page import page
from tests.report_rows import as_recorded
from tests.synthetic_study import climbed, small_study

BUDGETS = (3, 4, 6, 10)
VOID = {"meta", "line", "circle", "use", "path", "image", "rect", "input", "br"}


class Files(dict):
    """Artifacts by run and name."""

    def get(self, run_id, name):
        return super().get((run_id, name))


def png(seed=0, side=40, quiet=True):
    """A picture; one that is not quiet is noise, which nothing makes smaller."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    if quiet:
        pixels[:] = pixels[0, 0]
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format="PNG", compress_level=1)
    return out.getvalue()


def steps_csv(sigmas, solver="euler"):
    lines = ["evaluation,sigma,sigma_next,solver,kappa,eta"]
    for k, (sigma, following) in enumerate(itertools.pairwise(sigmas)):
        lines.append(f"{k + 1},{sigma},{following},{solver if k < 2 else 'heun'},{0.1 * k if k else ''},{0.02 + k}")
    return "\n".join(lines).encode()


def kept(records, seed=0, **picture):
    """What each scored trial keeps: card, samples, steps; by its key, which is the run's id in `as_recorded`."""
    files = Files()
    for number, item in enumerate(records):
        if item.result is not None:
            files[item.key, "card.json"] = card_text(card(item.result)).encode()
            files[item.key, "samples.png"] = png(seed + number, **picture)
            files[item.key, "steps.csv"] = steps_csv(item.result.plan.sigmas)
    return files


def small_record():
    records = climbed(small_study(), BUDGETS)
    return as_recorded(records), kept(records)


class Node:
    def __init__(self, tag, attributes):
        self.tag, self.attributes, self.children = tag, dict(attributes), []

    @property
    def text(self):
        parts = [child if isinstance(child, str) else child.text for child in self.children]
        return " ".join("".join(parts).split())

    def all(self, *tags, **attributes):
        for child in self.children:
            if isinstance(child, Node):
                fits = all(child.attributes.get(name.rstrip("_")) == value for name, value in attributes.items())
                if (not tags or child.tag in tags) and fits:
                    yield child
                yield from child.all(*tags, **attributes)

    def one(self, *tags, **attributes):
        (found,) = self.all(*tags, **attributes)
        return found

    def classed(self, name):
        return [node for node in self.all() if name in node.attributes.get("class", "").split()]


class Parsed(html.parser.HTMLParser):
    """A page as a tree, parsed by the standard library; `tags` in the order of their starts."""

    def __init__(self, text):
        super().__init__()
        self.root = Node("root", ())
        self.open, self.tags = [self.root], []
        self.feed(text)
        assert self.open == [self.root], [node.tag for node in self.open]

    def handle_starttag(self, tag, attrs):
        node = Node(tag, attrs)
        self.tags.append(tag)
        self.open[-1].children.append(node)
        if tag not in VOID:
            self.open.append(node)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.open[-1].children.append(Node(tag, attrs))

    def handle_endtag(self, tag):
        assert self.open.pop().tag == tag

    def handle_data(self, data):
        self.open[-1].children.append(data)


def parsed(frame, files, budgets=None):
    return Parsed(page(frame, files, budgets)).root


def table(root, caption):
    """The cells of the body of the table whose caption begins so, by row."""
    (found,) = [each for each in root.all("table") if each.one("caption").text.startswith(caption)]
    return [[cell.text for cell in row.all("th", "td")] for row in found.one("tbody").all("tr")]


def tips(root):
    return json.loads(root.one("script", id="tips").text)
