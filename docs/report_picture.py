"""Draw `docs/report.png`, the picture of a report that the README shows.

    mixcd demo --quick
    mixcd compare mixcd-demo/base mixcd-demo/without-rehearsal --data mixcd-demo/prior.csv --report what-broke.html
    python docs/report_picture.py what-broke.html

Needs Debian's `chromium`, or another on the search path.
"""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

PICTURE = Path(__file__).parent / "report.png"


def main() -> None:
    """Draw the start of a report."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1024, "height": 1060})
        page.goto(Path(sys.argv[1]).resolve().as_uri())
        page.screenshot(path=PICTURE)
        browser.close()


if __name__ == "__main__":
    main()
