"""A page as headless Chromium shows it, where there is one."""

import json
import re
import shutil
import subprocess

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
# Each width, how far the page reaches beyond it, and its pictures that are not shown.
LOOK = """<iframe src="report.html" style="width: 1280px; height: 900px; border: 0"></iframe>
<iframe src="report.html" style="width: 390px; height: 900px; border: 0"></iframe><pre></pre>
<script>onload = () => {
  const found = [];
  for (const {contentWindow: frame} of document.querySelectorAll("iframe")) {
    const page = frame.document.documentElement, images = [...frame.document.images];
    found.push([frame.innerWidth, page.scrollWidth - frame.innerWidth,
                images.filter(image => !image.naturalWidth).length]);
  }
  document.querySelector("pre").textContent = JSON.stringify(found);
};</script>"""


def look(folder):
    """What headless Chromium finds in report.html: [width, overflow, missing pictures] of each
    width, and the lines of its console.
    """
    if not CHROMIUM:
        pytest.skip(f"there is no Chromium ({', '.join(NAMES)})")
    (folder / "look.html").write_text(LOOK)
    result = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
         "--allow-file-access-from-files", f"--user-data-dir={folder / 'profile'}",
         "--enable-logging=stderr", "--dump-dom", (folder / "look.html").as_uri()],
        capture_output=True, text=True, timeout=120)
    found = re.search("<pre>(.+)</pre>", result.stdout)
    assert found, result.stderr
    return (json.loads(found[1]),
            [line for line in result.stderr.splitlines() if "CONSOLE" in line])
