"""The pages of `make app` in a real browser: what mouse and keyboard do, and the names that a screen reader finds."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
BYTES = """async image => {
    const bytes = new Uint8Array(await (await fetch(image.src)).arrayBuffer());
    return [bytes.length, bytes.reduce((sum, byte) => (31 * sum + byte) % 1000000007, 7)].join();
}"""


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The pages, served by Voila on a free port, as `make app` serves them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("voila") / "log.txt"
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    with log.open("w") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", "voila", ".", "--no-browser", f"--port={port}"],
            cwd=ROOT / "notebooks" / "app",
            stdout=output,
            stderr=output,
            env={**os.environ, "PYTHONPATH": path},
        )
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/static/", timeout=5)
            except urllib.error.HTTPError:
                break  # it answers
            except OSError:
                assert server.poll() is None and time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
            else:
                break
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.terminate()  # Voila ends its kernels too
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


@pytest.fixture(scope="module")
def page(address):
    """The β panel's page once its picture is there; ``page.complaints`` are the errors on its console."""
    with sync_playwright() as playwright:
        found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
        if found is None and Path(playwright.chromium.executable_path).exists():
            found = playwright.chromium.executable_path
        if found is None:
            if os.environ.get("CI") == "true":
                pytest.fail("CI=true, but there is no Chromium")
            pytest.skip("no Chromium here; `playwright install chromium` brings one")
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        page = browser.new_page(viewport=dict(width=1366, height=768))
        page.complaints = []
        page.on("console", lambda message: page.complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        # Voila's template asks a server elsewhere for icons, for which the page has its own. Nothing else may leave.
        page.route(
            lambda url: not url.startswith((address, "blob:")),
            lambda route: route.fulfill(body="") if "awesome" in route.request.url else route.abort(),
        )
        page.goto(address, timeout=60_000)
        follow(page, "turn_up_beta")
        page.locator("img.widget-image").wait_for(timeout=60_000)
        yield page
        browser.close()


def follow(page, name):
    """Open a page of the list of pages here: the list would open it in a tab of its own."""
    link = page.get_by_role("link", name=name)
    page.goto(link.evaluate("link => link.href"), timeout=180_000)


def picture(page):
    return page.locator("img.widget-image").evaluate(BYTES)


def said(page):
    text = page.get_by_role("status").inner_text()
    return text, re.findall(r"“([^“”]+), p = [\d.]+”", text)


def wait_for_another(page, before):
    deadline = time.monotonic() + 20
    while picture(page) == before:
        assert time.monotonic() < deadline, "the picture's bytes did not change"
        page.wait_for_timeout(50)
    return picture(page)


def shows(page, words):
    expect(page.get_by_role("status")).to_contain_text(words, timeout=20_000)


def test_everything_fits_on_a_small_laptop(page):
    (ROOT / "build").mkdir(exist_ok=True)
    page.screenshot(path=ROOT / "build" / "app.png")
    for place in (page.get_by_role("slider"), page.locator("img.widget-image"), page.get_by_role("status")):
        box = place.bounding_box()
        assert box["y"] >= 0 and box["y"] + box["height"] <= 768 and box["x"] + box["width"] <= 1366
    image = page.locator("img.widget-image")
    assert image.evaluate("image => image.naturalWidth") == pytest.approx(image.bounding_box()["width"], abs=1)


def test_the_slider_moves_by_keyboard_and_mouse_and_the_prediction_of_the_numbers_stays(page):
    text, predictions = said(page)
    assert "β = 512" in text and predictions[:2] == ["cat", "cat"]
    before = picture(page)
    page.get_by_role("slider").focus()
    page.keyboard.press("ArrowRight")
    shows(page, "β = 1024")
    after = wait_for_another(page, before)
    assert said(page)[1][:2] == ["cat", "cat"]

    track = page.locator(".noUi-base").first.bounding_box()
    handle = page.locator(".noUi-handle").first.bounding_box()
    page.mouse.move(handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2)
    page.mouse.down()
    page.mouse.move(track["x"] + track["width"] - 1, track["y"] + track["height"] / 2, steps=8)
    page.mouse.up()
    shows(page, "β = 8192")
    wait_for_another(page, after)
    text, predictions = said(page)
    assert predictions[:2] == ["cat", "cat"] and "inf" not in text
    assert page.locator("img.widget-image").count() == 1
    assert page.complaints == []


def test_play_moves_the_slider_and_stops(page):
    page.get_by_role("slider").focus()
    page.keyboard.press("Home")
    shows(page, "β = 1.")
    play = page.locator(".widget-play button")
    play.first.click()
    shows(page, "β = 4.")
    play.first.click()
    page.wait_for_timeout(2000)  # a step that was under way
    stopped = page.locator(".widget-readout").first.inner_text()
    page.wait_for_timeout(2000)
    assert page.locator(".widget-readout").first.inner_text() == stopped
    assert page.complaints == []


def test_every_control_has_a_name_and_works_by_keyboard(page):
    for role, name in (
        ("combobox", "network"),
        ("combobox", "photograph"),
        ("combobox", "recipe"),
        ("spinbutton", "vector"),
        ("spinbutton", "seed"),
        ("checkbox", "stay in [0, 1]"),
        ("button", "Upload"),
        ("slider", "β"),
        ("button", "Play"),
        ("button", "Stop"),
        ("button", "Repeat"),
    ):
        expect(page.get_by_role(role, name=name)).to_have_count(1)
    assert "what the network sees" in page.get_by_role("img", name="Four pictures").get_attribute("title")

    stop = page.locator(".widget-readout").first.inner_text()
    expect(page.get_by_role("slider")).to_have_attribute("aria-valuetext", stop)

    before = picture(page)
    page.get_by_role("checkbox", name="stay in").focus()
    page.keyboard.press("Space")
    before = wait_for_another(page, before)
    shows(page, "It stays in [0, 1]")
    page.keyboard.press("Space")
    before = wait_for_another(page, before)
    page.get_by_role("combobox", name="recipe").select_option("repeat")
    before = wait_for_another(page, before)
    page.get_by_role("spinbutton", name="vector").fill("7")
    page.keyboard.press("Enter")
    before = wait_for_another(page, before)
    page.get_by_role("combobox", name="network").select_option("stridenet")
    wait_for_another(page, before)
    shows(page, "windows of conv1 overlap")
    assert page.complaints == []


def upload(page, path):
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Upload").click()
    chooser.value.set_files(path)


def test_a_picture_is_uploaded_and_a_bad_file_is_refused(page, tmp_path):
    before = picture(page)
    (tmp_path / "bad.png").write_bytes(b"no picture")
    upload(page, tmp_path / "bad.png")
    shows(page, "Not loaded: bad.png is not a JPEG, PNG or WebP picture")
    assert picture(page) == before
    noise = np.random.default_rng(0).integers(0, 255, (2200, 2400, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "mine.png")  # 15 MB, more than one message of the usual size holds
    upload(page, tmp_path / "mine.png")
    wait_for_another(page, before)
    expect(page.get_by_role("combobox", name="photograph").locator("option:checked")).to_have_text("mine.png")
    assert page.complaints == []


def test_a_walk_is_found_stop_by_stop_and_then_a_slider_moves_on_it(address, page):
    # The last test of this page, which it leaves.
    page.goto(address, timeout=60_000)
    follow(page, "walk_along")
    shows(page, "Press Walk.")
    for role, name in (("combobox", "network"), ("combobox", "from"), ("combobox", "towards"), ("slider", "stop")):
        expect(page.get_by_role(role, name=name)).to_have_count(1)
    before = picture(page)
    page.get_by_role("button", name="Walk").click()
    expect(page.get_by_role("status")).to_contain_text("Stop 12 of 12", timeout=300_000)
    after = wait_for_another(page, before)
    predictions = said(page)[1]
    assert predictions[0] == predictions[1] != predictions[2]
    slider = page.get_by_role("slider")
    slider.focus()
    page.keyboard.press("ArrowLeft")
    shows(page, "Stop 11 of 12")
    wait_for_another(page, after)
    for place in (slider, page.locator("img.widget-image"), page.get_by_role("status")):
        box = place.bounding_box()
        assert box["y"] >= 0 and box["y"] + box["height"] <= 768 and box["x"] + box["width"] <= 1366
    assert page.complaints == []
