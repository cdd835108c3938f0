"""The page in a real browser: no error, sorting both ways, every picture loads, nothing wider than a phone."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import shutil
import subprocess

import pytest

from analysis_records import make_effects, make_exposure, make_instruments, make_pictures, make_reliance
from deconfound.reporting.page import render
from style_records import make_style

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs chromium, chromium-browser or google-chrome on the PATH")

LISTEN = """
window.faults = [];
window.addEventListener("error", (event) => faults.push(String(event.message || event.target.outerHTML)), true);
window.addEventListener("securitypolicyviolation", (event) => faults.push("policy: " + event.violatedDirective));
for (const kind of ["error", "warn"]) console[kind] = (...words) => faults.push(kind + ": " + words.join(" "));
"""

PROBE = """
window.addEventListener("load", () => {
  const heads = [...document.querySelectorAll("#results thead th")];
  const column = (name) => heads.findIndex((head) => head.textContent.trim() === name);
  const values = (name) => [...document.querySelectorAll("#results tbody tr")].map((row) => {
    const cell = row.cells[column(name)];
    return cell.dataset.sort === undefined ? cell.textContent.trim() : Number(cell.dataset.sort);
  });
  const click = (name) => {
    heads[column(name)].querySelector("button").click();
    const state = heads.map((head) => head.getAttribute("aria-sort")).filter(Boolean);
    return { values: values(name), state, said: document.getElementById("sorted").textContent };
  };
  const found = { first: values("Robust"), sorted: {} };
  for (const name of ["Robust", "Model", "n"]) found.sorted[name] = [click(name), click(name)];
  const paper = () => getComputedStyle(document.body).backgroundColor;
  const theme = document.getElementById("theme");
  found.papers = [paper()];
  found.names = [theme.textContent];
  theme.click();
  found.papers.push(paper());
  found.names.push(theme.textContent);
  theme.click();
  found.papers.push(paper());
  found.pictures = [...document.images].map((image) => [image.complete, image.naturalWidth, image.clientWidth]);
  found.folded = document.querySelectorAll("details:not([open])").length;
  window.dispatchEvent(new Event("beforeprint"));
  found.printed = document.querySelectorAll("details:not([open])").length;
  window.dispatchEvent(new Event("afterprint"));
  found.refolded = document.querySelectorAll("details:not([open])").length;
  found.width = [document.documentElement.scrollWidth, window.innerWidth];
  found.faults = window.faults;
  const place = document.createElement("pre");
  place.id = "found";
  place.textContent = JSON.stringify(found);
  document.body.append(place);
});
"""


def probed(page: str) -> str:
    """The page with the two scripts added and allowed by its policy, which stays in force otherwise."""
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in (LISTEN, PROBE)
    )
    page = page.replace("script-src '", f"script-src {hashes} '", 1)
    page = page.replace("<title>", f"<script>{LISTEN}</script><title>", 1)
    return page.replace("</body>", f"<script>{PROBE}</script></body>", 1)


def browse(page: str, folder, width: int, *more: str) -> dict:
    """What the probe found."""
    file = folder / "page.html"
    file.write_text(probed(page), encoding="utf-8")
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        f"--user-data-dir={folder / 'profile'}", f"--window-size={width},900", *more, "--dump-dom", file.as_uri(),
    ]  # fmt: skip
    dom = subprocess.run(command, capture_output=True, timeout=120, check=True).stdout.decode()
    written = re.search(r'<pre id="found">(.*?)</pre>', dom, re.S)
    assert written, "the probe did not finish"
    return json.loads(html.unescape(written[1]))


@pytest.fixture(scope="module")
def found(evaluations, trainings, make, tmp_path_factory):
    """Desktop, dark preference, with a record that has no number and one with hostile names."""
    nan = make["evaluation"]("broken", robust_accuracy=float("nan"), n=99, size=(40, 24, 3))
    evil = make["evaluation"]("<img src=x onerror=throw(1)>", "</script><script>throw 1</script>", robust=0.5)
    png = make["picture"](0).clean_png
    analyses = [
        make_style(png, 1), make_reliance(), make_reliance((0.1, 0.9)), make_instruments(), make_pictures(png, 1),
        make_exposure(png, 1, 3), make_effects(),
    ]  # fmt: skip
    page = render([*evaluations, nan, evil], trainings, analyses=analyses)
    return browse(page, tmp_path_factory.mktemp("desktop"), 1200, "--blink-settings=preferredColorScheme=0")


def test_no_error_and_no_refused_request(found):
    assert found["faults"] == []


def test_sorting_works_in_both_directions(found):
    numbers = [value for value in found["first"] if value is not None]
    assert len(numbers) == 6
    down, up = found["sorted"]["Robust"]
    assert down["values"] == [*sorted(numbers, reverse=True), None]
    assert up["values"] == [*sorted(numbers), None]
    assert (down["state"], up["state"]) == (["descending"], ["ascending"])
    assert down["said"] == "Sorted by Robust, descending"
    forward, backward = (step["values"] for step in found["sorted"]["Model"])
    assert forward == backward[::-1]
    assert forward != backward
    words = [name for name in forward if name.startswith("small")]
    assert words == sorted(words)
    assert [step["values"][0] for step in found["sorted"]["n"]] == [360, 99]


def test_every_picture_loads_and_is_shown(found):
    assert len(found["pictures"]) == 7 * 4 * 3 + 6 + 6 + 4
    assert all(complete and natural > 0 and shown > 40 for complete, natural, shown in found["pictures"])


def test_the_toggle_changes_the_preferred_colours_and_back(found):
    dark, light, again = found["papers"]
    assert dark == again
    assert sum(map(int, re.findall(r"\d+", dark)[:3])) < 150 < 600 < sum(map(int, re.findall(r"\d+", light)[:3]))
    assert found["names"] == ["Light", "Dark"]


def test_paper_gets_what_is_folded_away(found):
    assert found["folded"] == found["refolded"] > 0
    assert found["printed"] == 0


def test_a_phone_needs_no_sideways_scrolling(make, trainings, tmp_path):
    name = "wide_resnet_70_16_" + "long_name_" * 12
    long = make["evaluation"](name, "d" * 90, names=("class_" * 15,) * 10, data="data_" * 20, notes=("n" * 300,))
    wide = make["column"]("c" * 90, "beyond", "t" * 90, 0.5, bound="b" * 90)
    more = [
        make["evaluation"](reasons=("r" * 200,)), make["fast"](), make["random"](), make["paper"](),
        make["unseen"](reasons=("r" * 90,), columns=(*make["unseen"]().columns, wide)),
    ]  # fmt: skip
    png = make["picture"](0).clean_png
    odd = {"model": "m" * 90, "data": "d" * 90, "class_names": ("class_" * 15,) * 10}
    analyses = [make_style(png), make_style(png, **odd), make_reliance((0.1, 0.5, 0.9, 0.99)), make_reliance(**odd)]
    analyses += [
        make_instruments(),
        make_instruments(layer="l" * 90, **odd),
        make_pictures(png),
        make_pictures(png, **odd),
    ]
    analyses += [make_exposure(png), make_exposure(png, **odd)]
    found = browse(render([long, *more], trainings, "t" * 120, analyses=analyses), tmp_path, 390)
    assert found["width"][1] <= 500
    assert found["width"][0] <= found["width"][1]
    assert found["faults"] == []
