"""The HTML report: numbers, escaping, no network; and, slow, in a real browser."""

from __future__ import annotations

import contextlib
import html.parser
import json
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from mergekit_tokenadapt.evaluation.report.html import compare_page


@pytest.fixture(scope="module")
def page_and_result(base: Path, out: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A page written by the command, and the JSON of the same run."""
    from click.testing import CliRunner

    from mergekit_tokenadapt.cli.evaluate import main

    file = tmp_path_factory.mktemp("html") / "report.html"
    names = [part for name in ("prose", "hard", "de", "zh") for part in ("--builtin", name)]
    arguments = ["compare", str(base), str(out), *names, "--max-bytes", "600", "--html", str(file), "--json", "--quiet"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    return file, json.loads(result.stdout)


class Cells(html.parser.HTMLParser):
    """Rows of all tables, as lists of words; and every tag with its attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._inside = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.rows[-1][-1] += data


def parsed(text: str) -> Cells:
    parser = Cells()
    parser.feed(text)
    return parser


def check_numbers(rows: list[list[str]], result: dict[str, Any]) -> None:
    """The quality table holds the numbers of the result, to the digits shown."""
    first, second = result["models"]
    heading = next(n for n, row in enumerate(rows) if "difference" in row)
    table = {row[0]: row for row in rows[heading + 1 : heading + 2 + len(first["domains"])]}
    assert set(table) == {"all", *first["domains"]}
    for domain, row in table.items():
        ours = second["all"] if domain == "all" else second["domains"][domain]
        theirs = first["all"] if domain == "all" else first["domains"][domain]
        shown = [float(re.match(r"[+-]?[\d.]+", cell)[0]) for cell in row[1:]]  # type: ignore[index]
        expected = [theirs["bits_per_byte"], ours["bits_per_byte"], ours["difference"], ours["token_perplexity_ratio"]]
        assert shown[:3] == pytest.approx(expected[:3], abs=6e-4)
        assert shown[3] == pytest.approx(expected[3], abs=6e-3)
        if ours["interval"]:
            assert f"[{ours['interval'][0]:.3f}, {ours['interval'][1]:.3f}]" in row[2]


def test_the_page_holds_the_numbers(page_and_result: tuple[Path, dict[str, Any]]) -> None:
    file, result = page_and_result
    cells = parsed(file.read_text())
    check_numbers(cells.rows, result)
    hashes = {cell for row in cells.rows for cell in row if len(cell) == 64}
    assert hashes == {t["sha256"] for t in result["texts"]}


def test_the_page_asks_for_nothing_from_outside(page_and_result: tuple[Path, dict[str, Any]]) -> None:
    text = page_and_result[0].read_text()
    cells = parsed(text)
    assert not [t for t, _ in cells.tags if t in ("script", "link", "img", "iframe", "object")]
    assert not [a for _, attributes in cells.tags for a in attributes if a in ("src", "href", "onload", "onclick")]
    assert "url(" not in text
    assert "@import" not in text


def test_the_page_has_all_plots(page_and_result: tuple[Path, dict[str, Any]]) -> None:
    cells = parsed(page_and_result[0].read_text())
    labels = [a["aria-label"] or "" for tag, a in cells.tags if tag == "svg"]
    for start in (
        "Bits per byte",
        "Tokens per byte, by language",
        "Share of new",
        "Lengths of input rows",
        "Old and new",
    ):
        assert any(label.startswith(start) for label in labels)


def test_names_and_tokens_cannot_break_the_page(page_and_result: tuple[Path, dict[str, Any]]) -> None:
    result = json.loads(json.dumps(page_and_result[1]))
    evil = '</code><script>alert("x")</script>\u202e'
    result["models"][1]["top_excess"][0] |= {"text": evil, "made_of": [{"text": evil, "weight": 1.0}]}
    result["models"][1]["name"] = "<b>out</b>"
    result["texts"][0]["source"] = evil
    cells = parsed(compare_page(result))
    assert not [t for t, _ in cells.tags if t in ("script", "b")]


def test_the_folder_of_the_page_must_be_there(
    base: Path, out: Path, run: Callable[..., Result], tmp_path: Path
) -> None:
    result = run("compare", base, out, "--html", tmp_path / "nowhere" / "report.html")
    assert result.exit_code == 2
    assert "there is no folder" in result.output


def test_a_page_for_a_model_without_new_rows(base: Path, run: Callable[..., Result], tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    result = run("compare", base, base, "--builtin", "arithmetic", "--max-bytes", 300, "--html", page, "--quiet")
    assert result.exit_code == 0, result.output
    assert "new: 0 rows" in page.read_text()


FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


class Browser:
    """Chromium through the WebDriver protocol, without a client library."""

    def __init__(self, port: int) -> None:
        self._root = f"http://127.0.0.1:{port}"
        options = {"args": FLAGS, "binary": shutil.which("chromium")}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        self._session = self._ask("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        content = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self._root + path, content, {"Content-Type": "application/json"}, method=method
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        return self._ask(method, f"/session/{self._session}{path}", body)

    def run(self, script: str) -> Any:
        return self.ask("POST", "/execute/sync", {"script": script, "args": []})

    def set_width(self, width: int) -> None:
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        command = {"cmd": "Emulation.setDeviceMetricsOverride", "params": metrics}
        self.ask("POST", "/goog/cdp/execute", command)

    def close(self) -> None:
        self.ask("DELETE", "")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not shutil.which("chromium") or not shutil.which("chromedriver"):
        pytest.skip("needs Debian's packages chromium and chromium-driver")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    driver = subprocess.Popen(["chromedriver", f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            with contextlib.suppress(urllib.error.URLError), urllib.request.urlopen(f"http://127.0.0.1:{port}/status"):
                break
            time.sleep(0.1)
        opened = Browser(port)
        yield opened
        opened.close()
    finally:
        driver.terminate()
        driver.wait(timeout=20)


@pytest.mark.slow
@pytest.mark.parametrize("width", [360, 1280], ids=["phone", "desktop"])
def test_in_a_real_browser(browser: Browser, width: int, page_and_result: tuple[Path, dict[str, Any]]) -> None:
    file, result = page_and_result
    browser.set_width(width)
    browser.ask("POST", "/url", {"url": file.as_uri()})
    assert browser.run("return window.innerWidth") == width
    # No error, and nothing but the page itself was asked for.
    problems = browser.ask("POST", "/se/log", {"type": "browser"})
    assert [p for p in problems if p["level"] in ("SEVERE", "WARNING")] == []
    assert browser.run("return performance.getEntriesByType('resource').length") == 0
    # Only tables may scroll sideways, inside their own box.
    assert browser.run("return document.documentElement.scrollWidth") <= width
    rows = browser.run("return [...document.querySelectorAll('tr')].map(r => [...r.cells].map(c => c.innerText))")
    check_numbers(rows, result)
    # Every plot is visible, inside the window, and its text is large enough to read.
    boxes = browser.run(
        "return [...document.querySelectorAll('svg')].map(s => s.getBoundingClientRect())"
        ".map(b => [b.left, b.right, b.height])"
    )
    assert len(boxes) == 5
    assert all(left >= 0 and right <= width and height > 40 for left, right, height in boxes)
    sizes = browser.run("return [...document.querySelectorAll('svg text')].map(t => t.getBoundingClientRect().height)")
    assert min(sizes) >= 8
