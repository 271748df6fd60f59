"""The HTML report in a browser: whole on a wide and on a narrow window, with no network."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from toolkit.evaluation.merge import merge
from toolkit.evaluation.page import page

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
#: Browsers open no window this narrow, so the page stands in a frame, which tells its own size.
FRAME = """<!doctype html><title>-</title>
<iframe width="{width}" height="900" srcdoc="{page}" onload="
  const inside = this.contentDocument, root = inside.documentElement;
  document.title = [
    root.scrollWidth, root.clientWidth, inside.querySelectorAll('table').length,
    [...inside.images].filter(i => !i.naturalWidth).length,
    inside.querySelectorAll('svg circle').length,
  ].join(' ')"></iframe>
"""


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on the path")
@pytest.mark.parametrize("width", [1280, 390])
def test_report_fits_its_window(finished, tmp_path: Path, width: int) -> None:
    own = finished / "work/exp/tiny/mtbi"
    text = page(merge([own]), "Results")
    assert text.count("<img") >= 1 and "data:image/png" in text
    # The run's own report is in it: tables that a comparison has no place for.
    assert "<summary>tiny/mtbi</summary>" in text and "<th>follows, speech</th>" in text
    shown = tmp_path / "frame.html"
    shown.write_text(FRAME.format(width=width, page=html.escape(text, quote=True)))
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1400,1000",
        "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={tmp_path / 'profile'}",
        "--virtual-time-budget=4000", "--dump-dom", shown.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found = re.search(r"<title>([\d ]+)</title>", done.stdout)
    assert found, done.stderr[-2000:]
    wanted, given, tables, broken, points = map(int, found.group(1).split())
    assert given > 0.9 * width - 40 and wanted <= given, "the page scrolls sideways"
    assert tables >= 2 and broken == 0 and points > 0
