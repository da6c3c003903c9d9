"""The report: its numbers are those of the table, it needs nothing beside itself, and it is the same each time."""

from __future__ import annotations

import base64
import csv
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("matplotlib")

from llmgym.benchmark import AgentSpec, Plan, Summary, run, suite, write_report
from llmgym.benchmark.documents import Heading, Paragraph, Picture, Table, markdown, page
from llmgym.benchmark.pictures import DARK, LIGHT
from llmgym.benchmark.report import report
from llmgym.benchmark.statistics import interquartile_mean

SOURCE = """
import numpy as np

class Half:
    '''Says the first word with the chance one half.'''

    def train(self, challenge, budget, seed):
        self.rng = np.random.default_rng(seed)
        envs = challenge.make_vec(10)
        envs.reset(seed=seed)
        challenge.progress()
        envs.step(np.full(10, 5))

    def act(self, observations, restarted, waiting):
        return np.where(self.rng.random(len(waiting)) < 0.5, 5, 1)

def answer(prompt):
    return "0 "
"""


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmark")
    (folder / "own.py").write_text(SOURCE)
    words = ["random", f"half={folder / 'own.py'}:Half", f"text={folder / 'own.py'}:answer"]
    entries = suite(only=["noise", "vocabulary", "proxy"], budget=10)
    plan = Plan(tuple(map(AgentSpec.parse, words)), entries, 3, 2, 20, 40)
    run(plan, folder / "out")
    return plan, folder / "out"


@pytest.fixture(scope="module")
def summary(benchmark):
    return Summary.read(*benchmark, n_resamples=100)


@pytest.fixture(scope="module")
def written(summary, benchmark):
    return write_report(summary, benchmark[1], "llmgym bench --agents <them>")


def table_under(text: str, heading: str) -> list[list[str]]:
    """Rows of the first table under a heading of the Markdown."""
    lines = text.split(f"## {heading}\n")[1].splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[first:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def test_the_scores_are_those_of_the_table(written):
    table, report, _ = written
    rows = [row for row in csv.DictReader(table.read_text().splitlines()) if row["final"] == "True"]
    head, _, *lines = table_under(report.read_text(), "Scores")
    assert head == ["challenge", "random", "half", "text"]
    assert len(lines) == 3
    for line in lines:
        for agent, cell in zip(head[1:], line[1:], strict=True):
            scores = [
                float(r["score"]) for r in rows if r["agent"] == agent and f"{r['diagnostic']}-{r['size']}" == line[0]
            ]
            assert len(scores) == 3
            value, low, high = map(float, re.findall(r"\d\.\d\d", cell))
            assert value == pytest.approx(np.mean(scores), abs=0.0051)
            assert min(scores) - 0.0051 <= low <= value <= high <= max(scores) + 0.0051


def test_the_aggregate_is_that_of_the_table(written):
    table, report, _ = written
    rows = [row for row in csv.DictReader(table.read_text().splitlines()) if row["final"] == "True"]
    for line in table_under(report.read_text(), "All runs together")[2:]:
        scores = [float(row["score"]) for row in rows if row["agent"] == line[0]]
        assert float(line[1].split()[0]) == pytest.approx(interquartile_mean(scores), abs=0.0051)


def test_the_probabilities_of_two_agents_add_up_to_one(written):
    rows = table_under(written[1].read_text(), "Probability of improvement")[2:]
    for i in range(3):
        assert rows[i][1 + i] == ""
        for j in range(i):
            both = [float(rows[a][1 + b].split()[0]) for a, b in ((i, j), (j, i))]
            assert sum(both) == pytest.approx(1, abs=0.011)


def test_readings_are_shown(written):
    text = written[1].read_text()
    names = [row[0] for row in table_under(text, "Beside the score")]
    assert "proxy-small: hacked" in names
    assert "noise-small: regret" in names


class Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def test_the_page_needs_nothing_beside_itself(written):
    text = written[2].read_text()
    elements = Elements()
    elements.feed(text)
    tags = {tag for tag, _ in elements.found}
    assert not tags & {"script", "iframe", "object", "embed"}
    links = [
        value
        for _, attributes in elements.found
        for name, value in attributes.items()
        if name in ("src", "srcset", "href", "data", "action")
    ]
    assert len(links) == 1 + 2 * 4  # no icon to ask for, and four pictures in two themes
    assert all(link.startswith("data:") for link in links)
    assert "url(" not in text
    assert "@import" not in text
    for link in links[1:]:
        svg = base64.b64decode(link.split("base64,")[1]).decode()
        root = ET.fromstring(svg)
        assert root.tag.endswith("svg")
        hrefs = re.findall(r'href="([^"]*)"', svg)
        assert all(href.startswith(("#", "data:")) for href in hrefs)


def test_every_picture_says_in_words_what_it_shows(written):
    for text in (written[1].read_text(), written[2].read_text()):
        alts = re.findall(r'alt="([^"]*)"', text)
        assert len(alts) == 4
        assert all(len(alt) > 40 for alt in alts)


def test_the_pictures_of_the_markdown_are_beside_it(written):
    text = written[1].read_text()
    files = re.findall(r'src(?:set)?="([^"]*)"', text)
    assert len(files) == 8
    assert all((written[1].parent / name).is_file() for name in files)


def test_what_was_typed_is_text_and_not_markup(written):
    page_text = written[2].read_text()
    assert "llmgym bench --agents &lt;them&gt;" in page_text
    assert "<them>" not in page_text


@pytest.mark.slow
def test_a_report_is_the_same_each_time(summary, benchmark, written):
    before = [path.read_bytes() for path in written]
    again = write_report(Summary.read(*benchmark, n_resamples=100), benchmark[1], "llmgym bench --agents <them>")
    assert [path.read_bytes() for path in again] == before


def test_pictures_differ_in_their_colours_alone(written):
    folder = written[1].parent / "pictures"
    for name in ("radar", "curves", "aggregates", "profiles"):
        light, dark = ((folder / f"{name}_{theme.name}.svg").read_text() for theme in (LIGHT, DARK))
        assert light != dark
        assert len(re.sub(r"#[0-9a-f]{6}\b", "#", light)) == len(re.sub(r"#[0-9a-f]{6}\b", "#", dark))


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda theme: theme.name)
def test_ink_and_agents_can_be_seen_on_the_paper(theme):
    """WCAG 2: contrast of 4.5 for text, 2 is the least for a thick line."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    def contrast(one: str, other: str) -> float:
        low, high = sorted((luminance(one), luminance(other)))
        return (high + 0.05) / (low + 0.05)

    assert contrast(theme.ink, theme.paper) > 10
    assert min(contrast(colour, theme.paper) for colour in theme.agents) > 2
    assert len(set(theme.agents)) == 8


def test_what_is_missing_is_said(benchmark):
    plan, output = benchmark
    more = Summary.read(
        Plan((*plan.agents, AgentSpec.parse("grpo")), plan.entries, 3, 2, 20, 40), output, n_resamples=20
    )
    drawn = {
        name: Picture(name, {"light": "", "dark": ""}, "") for name in ("radar", "curves", "aggregates", "profiles")
    }
    assert "9 of 36 cells have no result yet" in markdown(report(more, drawn, "command"))


def test_one_agent_on_one_challenge_has_a_report_too(tmp_path):
    plan = Plan((AgentSpec.parse("random"),), suite(only=["copy"], budget=10), 1, 1, 10, 10)
    run(plan, tmp_path)
    written = write_report(Summary.read(plan, tmp_path, n_resamples=20), tmp_path, "command")
    text = written[1].read_text()
    assert "1 agent, 1 challenge, 1 seed: 1 training," in text
    assert "Probability of improvement" not in text
    assert re.search(r"\| copy-small \| \d\.\d\d \|", text)  # of one seed there is no interval


def test_a_level_that_no_episode_was_of_has_no_reading(tmp_path):
    """Of few episodes those of a seed may miss one: the mean is over the others."""
    plan = Plan((AgentSpec.parse("random"),), suite(only=["difficulty"], sizes=["large"], budget=10), 4, 1, 2, 2)
    run(plan, tmp_path)
    summary = Summary.read(plan, tmp_path, n_resamples=20)
    met = [
        {name for name in one.readings if name.startswith("level")} for one in summary.of("random", "difficulty-large")
    ]
    assert any(met[0] != of_seed for of_seed in met)
    text = write_report(summary, tmp_path, "command")[1].read_text()
    assert all(f"difficulty-large: {name}" in text for name in set.union(*met))


def test_a_drift_is_shown_where_there_is_a_curve(tmp_path):
    plan = Plan((AgentSpec.parse("grpo"),), suite(only=["length_bias"], budget=500), 1, 1, 100, 200)
    run(plan, tmp_path)
    summary = Summary.read(plan, tmp_path, n_resamples=20)
    ((one,),) = (summary.of("grpo", "length_bias-small"),)
    lengths = [float(row["reading_mean_length"]) for row in one.rows]
    assert one.readings["length_drift"] == pytest.approx(np.log2(lengths[-1] / lengths[0]))
    assert "length_bias-small: length_drift" in write_report(summary, tmp_path, "command")[1].read_text()


def test_blocks_as_markdown_and_as_a_page():
    blocks = [
        Heading(1, "A <b>title</b>"),
        Paragraph("Words & more."),
        Table(["name", "n"], [["a|b", "1"]]),
        Picture("p", {"light": "<svg/>", "dark": "<svg />"}, 'what "it" shows'),
    ]
    assert "| a\\|b | 1 |" in markdown(blocks)
    text = page(blocks)
    assert "<title>A &lt;b&gt;title&lt;/b&gt;</title>" in text
    assert "Words &amp; more." in text
    assert "what &quot;it&quot; shows" in text
    assert text.index('media="screen and (prefers-color-scheme: dark)"') < text.index("<img")
