"""The report in a real browser: nothing leaves the page, nothing in it runs, and it can be read and searched."""

import shutil

import numpy as np
import pytest

from mixcd.edge.compare.comparison import SampleDamage, compare_outcomes
from mixcd.edge.compare.page import write_report
from mixcd.run.outcome.evaluation import DamagedSample, TaskChange
from mixcd.run.report.page import write_page
from mixcd.run.report.run_findings import RunFindings
from mixcd.run.report.run_page import make_run_page
from mixcd.words.vocabulary import Partition

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine: install Debian's `chromium`"),
]
HOSTILE = '<img src="https://example.org/x.png" onerror="document.title=1"><script>document.title=2</script>'
TEXTS = (HOSTILE, "right \u202e to left", "nul \x00 here", "w" * 10_000, "مرحبا بالعالم", "an ordinary text on seats")


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as driver:
        launched = driver.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield launched
        launched.close()


@pytest.fixture
def open_page(browser):
    """Open a file; what the page says on the console or asks for elsewhere is collected."""
    opened = []

    def open_page(path, width=1024, **settings):
        page = browser.new_page(viewport={"width": width, "height": 800}, **settings)
        opened.append(page)
        page.heard = []
        page.on("console", lambda message: page.heard.append(message.text))
        page.on("pageerror", lambda error: page.heard.append(str(error)))
        page.on("request", lambda request: page.heard.append(request.url) if request.url != path.as_uri() else None)
        page.goto(path.as_uri())
        return page

    yield open_page
    for page in opened:
        page.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A comparison of 100,000 samples, with hostile texts and names."""
    rng = np.random.default_rng(0)
    before = rng.random(100_000) < 0.8
    topic = rng.integers(0, 60, 100_000)
    after = before & (rng.random(100_000) > 0.02 + 0.1 * (topic == 3))
    names = tuple(HOSTILE if number == 3 else f"topic={number}" for number in range(60))
    samples = [SampleDamage(k, 0.1, 3.0, "positive", "negative", TEXTS[k % len(TEXTS)]) for k in range(1000)]
    comparison = compare_outcomes(before, after, [("topic", Partition(topic, names))], most_damaged=samples)
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(comparison, path, settings={"base model": HOSTILE})
    return path


@pytest.mark.parametrize("width", [400, 1024, 1600])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_every_width_and_asks_for_nothing(open_page, report, width, scheme):
    page = open_page(report, width, color_scheme=scheme)
    assert page.heard == []
    assert page.title() == "What fine-tuning broke"
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ink, paper = page.evaluate(
        "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
    )
    assert (sum(map(int, ink[4:-1].split(", "))) > sum(map(int, paper[4:-1].split(", ")))) == (scheme == "dark")


def test_a_report_of_100_000_samples_is_small(report):
    assert report.stat().st_size < 3_000_000


def test_hostile_text_is_shown_and_does_nothing(open_page, report):
    page = open_page(report)
    assert page.evaluate("document.images.length") == 0
    assert page.evaluate("document.scripts.length") == 1
    shown = page.locator("table.cards tbody").inner_text()
    assert HOSTILE in shown
    assert "right ⟨U+202E⟩ to left" in shown
    assert "nul ⟨U+0000⟩ here" in shown
    assert "مرحبا بالعالم" in shown


def test_the_samples_are_searched_by_typing(open_page, report):
    page = open_page(report)
    box = page.get_by_label("Search in these rows")
    box.fill("SEATS ordinary")
    visible = page.locator("table.cards tbody tr:visible")
    assert visible.count() == 1000 // len(TEXTS)
    assert page.locator("output").inner_text() == f"{visible.count()} of 1000 rows"
    box.fill("no such words")
    assert visible.count() == 0
    box.fill("")
    assert visible.count() == 1000


@pytest.fixture(scope="module")
def text_report(tmp_path_factory):
    """The report of a run of a language model, with hostile prompts and answers."""
    answers = [("The cap", "ital", " of ", "France", "."), ("", HOSTILE), ("مرحبا ", "بالعالم")]
    samples = [
        DamagedSample(k, "bin", None, None, TEXTS[k % 6], 0.5, answers[k % 3], ("Rome", HOSTILE, "</s>")[k % 3])
        for k in range(300)
    ]
    path = tmp_path_factory.mktemp("text") / "report.html"
    found = RunFindings("a run", {"prior task": TaskChange(900, 800, 300, 0)}, damaged=samples, damaged_count=300)
    write_page(make_run_page(found), path, overwrite=False)
    return path


@pytest.mark.parametrize("width", [400, 1024])
def test_damaged_tokens_are_seen_without_colour_and_do_nothing(open_page, text_report, width):
    page = open_page(text_report, width, forced_colors="active")
    assert page.heard == []
    assert page.evaluate("document.images.length") == 0
    assert page.evaluate("document.scripts.length") == 1
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    mark = page.locator("mark").first
    assert mark.inner_text() == "ital"
    look = mark.evaluate(
        "(one) => [getComputedStyle(one).textDecorationLine, "
        "getComputedStyle(one, '::before').content, getComputedStyle(one, '::after').content]"
    )
    assert look[0] == "underline"
    assert [look[1][:3], look[2][:3]] == ['"["', '"]"']
    assert "damaged: " in look[1]  # what a screen reader says in the bracket's place


def test_words_are_found_whatever_part_of_them_is_damaged(open_page, text_report):
    page = open_page(text_report)
    box = page.get_by_label("Search in these rows")
    visible = page.locator("table.cards tbody tr:visible")
    for words, count in (("capital of france", 100), ("rome", 100), ("[ital", 0), ("damaged:", 0)):
        box.fill(words)
        assert visible.count() == count


def test_it_is_read_without_script(open_page, report):
    page = open_page(report, java_script_enabled=False)
    assert page.get_by_text("Hardest hit").is_visible()
    assert page.locator("table.cards tbody tr").count() == 1000
    assert not page.get_by_label("Search in these rows").is_visible()


def test_it_is_walked_by_keyboard(open_page, report):
    page = open_page(report)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the verdict"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('href')") == "#section-1"
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.type") == "search":
            break
    page.keyboard.type("seats")
    assert "of 1000 rows" in page.locator("output").inner_text()


def test_it_is_printed_with_everything_unfolded(open_page, tmp_path, report):
    page = open_page(report)
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate("[...document.querySelectorAll('details')].every((one) => one.open)")
    page.emulate_media(media="print")
    assert not page.locator("nav").is_visible()
    assert page.get_by_role("heading", name="Damaged samples").is_visible()


def test_the_pictures_of_a_run_are_seen_and_described(open_page, tmp_path):
    steps = [{"step": k, "damage_rate": 0.1, "yield_rate": 0.3, "lift": 3.0 if k > 5 else None} for k in range(1, 40)]
    write_page(make_run_page(RunFindings("a run", {}, steps=steps)), tmp_path / "run.html", overwrite=False)
    page = open_page(tmp_path / "run.html", 400)
    assert page.heard == []
    pictures = page.get_by_role("img")
    assert pictures.count() == 2
    assert "At the end: 3.00." in pictures.nth(1).get_attribute("aria-label")
    box = page.locator("svg").first.bounding_box()
    assert 300 <= box["width"] <= 400
    assert page.locator("svg text", has_text="step").first.is_visible()
