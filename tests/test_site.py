"""The site as a reader without internet opens it: every page, every link, the search, a narrow screen."""

import shutil
import sys
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin

import nbformat
import pytest
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
sys.path.insert(0, str(ROOT / "docs"))
import site_builder  # noqa: E402 (docs/ is no package)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium to open the site with")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site of the notebooks as they are saved; Sphinx's warnings are errors."""
    build = tmp_path_factory.mktemp("site") / "build"
    notebooks = {
        path.stem: nbformat.read(path, as_version=4) for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
    }
    site_builder.write(notebooks, build)
    return build


@pytest.fixture(scope="module")
def page(site):
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_context(viewport={"width": 390, "height": 844}, offline=True).new_page()
        page.complaints = []
        page.on("console", lambda message: message.type == "error" and page.complaints.append(message.text))
        page.on("requestfailed", lambda request: page.complaints.append(f"not to be had: {request.url}"))
        page.on(
            "request",
            lambda request: (
                request.url.startswith("http") and page.complaints.append(f"from the internet: {request.url}")
            ),
        )
        yield page
        browser.close()


def pages(site):
    return [path for path in sorted(site.glob("*.html")) if path.stem not in ("genindex", "py-modindex", "search")]


def test_the_search_finds_nullity(site, page):
    page.goto((site / "search.html").as_uri() + "?q=nullity")
    page.wait_for_selector("#search-results li a", timeout=20_000)
    assert page.evaluate("document.querySelectorAll('#search-results li').length") > 2
    assert page.complaints == []


def test_every_page_opens_without_internet_and_fits_a_narrow_screen(site, page):
    for path in pages(site):
        page.goto(path.as_uri())
        page.wait_for_function("!window.MathJax || !MathJax.startup || MathJax.startup.promise.then(() => true)")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, path.name
        prose = "[...document.querySelectorAll('article p, article li, article td')].map(e => e.innerText).join(' ')"
        assert "$" not in page.evaluate(prose), path.name
        assert not page.evaluate("[...document.querySelectorAll('article img')].filter(i => !i.alt).length"), path.name
        assert page.complaints == [], path.name


def test_every_link_inside_the_site_leads_somewhere(site, page):
    anchors, links = {}, set()
    for path in pages(site):
        page.goto(path.as_uri())
        anchors[path.as_uri()] = set(page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)"))
        found = page.evaluate("[...document.querySelectorAll('article a[href]')].map(e => e.getAttribute('href'))")
        links |= {(path.as_uri(), urljoin(path.as_uri(), href)) for href in found}
    local = [(source, *urldefrag(link)) for source, link in links if link.startswith("file:")]
    assert len(local) > 50
    for source, target, anchor in local:
        assert Path(unquote(target.removeprefix("file://"))).exists(), (source, target)
        if anchor and target in anchors:
            assert unquote(anchor) in anchors[target], (source, target, anchor)


def test_the_slider_of_beta_moves_without_a_kernel(site, page):
    page.goto((site / f"{site_builder.SLIDER_PAGE}.html").as_uri())
    slider, seen = page.locator("#beta"), page.locator("#beta-seen")
    before = page.locator("#beta-sum").get_attribute("src"), page.locator("#beta-words").inner_text()
    slider.focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    after = page.locator("#beta-sum").get_attribute("src"), page.locator("#beta-words").inner_text()
    assert before[0] != after[0] and page.locator("#beta-value").inner_text() == "4096"
    assert "to the numbers" in after[1] and "to the picture as shown" in after[1]
    assert seen.evaluate("image => image.complete && image.naturalWidth") == 224
    assert page.complaints == []
