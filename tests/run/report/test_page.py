import re

import pytest

from mixcd.run.report.page import Marked, Page, Section, Share, Table, render_page, write_page
from mixcd.run.report.svg_picture import INK, SERIES, draw_svg
from mixcd.words.errors import SettingError

HOSTILE = "<script>alert(1)</script> \u202e \x00 \ud800 \"' & " + "w" * 10_000


def make_page(text="plain"):
    table = Table(text, [text, "share"], [[text, Share(0.1, (0.05, 0.2), 0.2)]], is_searchable=True)
    folded = Table(text, [text], [[text]], is_folded=True)
    return Page(text, text, [text], [Section(text, text, tables=[table, folded], remarks=[text])], [(text, text)])


def test_every_text_of_a_page_is_inert():
    html = render_page(make_page(HOSTILE))
    html.encode("utf-8")
    assert html.count("<script") == 1  # its own
    assert "&lt;script&gt;alert(1)&lt;/script&gt; ⟨U+202E⟩ ⟨U+0000⟩ ⟨U+D800⟩ &#34;&#39; &amp; w" in html
    assert not re.search(r"w{2100}", html)
    assert "\x00" not in html


def test_the_page_names_no_address_to_load_from():
    html = render_page(make_page())
    assert not re.search(r"""(src|href)=["'](?!#|data:,)""", html)
    assert "default-src 'none'" in html


def test_a_share_shows_its_number_its_interval_and_both_as_a_bar():
    html = render_page(make_page())
    assert '<span class="whole">10.0 %</span> <span class="whole">(5.0–20.0)</span>' in html
    assert 'style="width: 50.0%"' in html
    assert 'style="left: 25.0%; right: 0.0%"' in html


def test_a_share_above_the_scale_fills_the_bar_and_a_scale_of_zero_leaves_it_empty():
    assert Share(0.5, None, 0.2).place(0.5) == 100.0
    assert Share(0.0, None, 0.0).place(0.0) == 0.0
    assert str(Share(0.5, None)) == "50.0 %"


def test_nothing_is_overwritten_unasked(tmp_path):
    path = tmp_path / "report.html"
    write_page(make_page("first"), path, overwrite=False)
    with pytest.raises(SettingError, match=r"`.*report.html` exists already.*`--overwrite`"):
        write_page(make_page("second"), path, overwrite=False)
    assert "first" in path.read_text("utf-8")
    write_page(make_page("second"), path, overwrite=True)
    assert "second" in path.read_text("utf-8")


def test_a_place_that_cannot_hold_a_report_is_refused(tmp_path):
    with pytest.raises(SettingError, match="is a folder, but a report is a file"):
        write_page(make_page(), tmp_path, overwrite=True)
    with pytest.raises(SettingError, match="there is no folder"):
        write_page(make_page(), tmp_path / "none" / "report.html", overwrite=False)


def test_pictures_take_the_colours_of_the_page_and_share_no_names():
    def draw(axes):
        axes.plot([0, 1], [0, 1], color=SERIES[0], label="a < b & $c$")
        axes.set_xlabel("step", color=INK)
        axes.legend()

    one, two = draw_svg("one", draw), draw_svg("two", draw)
    assert "var(--one)" in one
    assert "var(--ink)" in one
    assert "a &lt; b &amp; $c$" in one
    assert "<style" not in one
    assert "#0000" not in one
    names = [set(re.findall(r'id="([^"]+)"', svg)) for svg in (one, two)]
    assert not names[0] & names[1]
    assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', one)) <= names[0]
    assert draw_svg("one", draw) == one


def test_names_between_backticks_are_code_and_still_inert():
    html = render_page(Page("t", "Hardest hit: `<b>x</b>` and `y`.", ["one ` alone"], (), ()))
    assert "Hardest hit: <code>&lt;b&gt;x&lt;/b&gt;</code> and <code>y</code>." in html
    assert "<p>one ` alone</p>" in html


def test_marked_parts_of_a_text_are_inert_and_joined_as_they_were():
    table = Table("t", ["gold"], [[Marked(["play", HOSTILE[:30], "", "ing"])]], is_searchable=True)
    html = render_page(Page("t", "t", (), [Section("t", "t", tables=[table])], ()))
    assert html.count("<script") == 1
    assert (
        "play<mark>&lt;script&gt;alert(1)&lt;/script&gt; ⟨U+202E⟩ ⟨U+0000⟩ </mark><mark>ing</mark></span></td>" in html
    )
