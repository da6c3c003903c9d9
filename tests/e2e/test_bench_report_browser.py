"""The report of a benchmark in a real browser without a window: it shows, in both themes, and asks for nothing."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("matplotlib")
Image = pytest.importorskip("PIL.Image")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")

#: What the browser made of the page, written into the page itself.
PROBE = """
<script>
window.addEventListener("load", () => {
  const images = [...document.images];
  const said = {
    widths: images.map(image => image.naturalWidth * image.complete),
    paper: getComputedStyle(document.body).backgroundColor,
    ink: getComputedStyle(document.body).color,
    overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    shown: images.map(image => image.getBoundingClientRect().width),
    loaded: performance.getEntriesByType("resource").map(entry => entry.name.slice(0, 5)),
    rows: document.querySelectorAll("tbody tr").length,
  };
  const pre = document.createElement("pre");
  pre.id = "probe";
  pre.textContent = JSON.stringify(said);
  document.body.append(pre);
});
</script>
"""


def browse(page: Path, profile: Path, *flags: str) -> str:
    profile.mkdir()
    assert CHROMIUM is not None
    words = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    words += ["--disable-background-networking", "--disable-component-update", f"--user-data-dir={profile}"]
    done = subprocess.run([CHROMIUM, *words, *flags, page.as_uri()], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


DARK = ("--force-dark-mode", "--blink-settings=preferredColorScheme=0")


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    from llmgym.benchmark import AgentSpec, Plan, Summary, run, suite, write_report

    output = tmp_path_factory.mktemp("report")
    plan = Plan(tuple(map(AgentSpec.parse, ("random", "again=random", "third=random"))), suite(budget=10), 2, 1, 10, 20)
    assert run(plan, output) == []
    return write_report(Summary.read(plan, output, n_resamples=50), output, "llmgym bench")[2]


@pytest.mark.parametrize(("flags", "paper", "ink"), [((), 255, 31), (DARK, 13, 230)], ids=["light", "dark"])
def test_the_page_shows_and_asks_for_nothing(report, tmp_path, flags, paper, ink):
    probed = tmp_path / "probed.html"
    probed.write_text(report.read_text().replace("</body>", PROBE + "</body>"))
    dom = browse(probed, tmp_path / "profile", "--dump-dom", "--window-size=1200,900", *flags)
    found = re.search(r'<pre id="probe">(.*?)</pre>', dom)
    assert found is not None
    said = json.loads(found.group(1))
    assert len(said["widths"]) == 4
    assert min(said["widths"]) > 300  # every picture was decoded
    assert min(said["shown"]) > 300
    assert max(said["shown"]) < 1200
    assert said["overflow"] <= 0  # nothing sticks out to the right
    assert set(said["loaded"]) <= {"data:"}
    assert said["rows"] > 40
    assert said["paper"].startswith(f"rgb({paper},")
    assert said["ink"].startswith(f"rgb({ink},")


@pytest.mark.parametrize("flags", [(), DARK], ids=["light", "dark"])
def test_pictures_are_on_paper_of_their_theme(report, tmp_path, flags):
    """Most of a page is paper, and something is drawn on it."""
    shot = tmp_path / "shot.png"
    browse(report, tmp_path / "profile", f"--screenshot={shot}", "--window-size=1200,2400", "--hide-scrollbars", *flags)
    pixels = np.asarray(Image.open(shot).convert("L"), dtype=int)
    assert pixels.shape == (2400, 1200)
    paper = 255 if not flags else 16
    assert (abs(pixels - paper) < 8).mean() > 0.8
    assert (abs(pixels - paper) > 60).mean() > 0.005


def test_it_prints(report, tmp_path):
    pdf = tmp_path / "report.pdf"
    browse(report, tmp_path / "profile", f"--print-to-pdf={pdf}", "--no-pdf-header-footer", *DARK)
    content = pdf.read_bytes()
    assert content.startswith(b"%PDF")
    assert len(content) > 20_000
