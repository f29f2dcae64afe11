"""The page of `make app` in a real browser: what mouse and keyboard do, and the names that a screen reader finds."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from playwright.sync_api import expect, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
BYTES = """async image => {
    const bytes = new Uint8Array(await (await fetch(image.src)).arrayBuffer());
    return [bytes.length, bytes.reduce((sum, byte) => (31 * sum + byte) % 1000000007, 7)].join();
}"""


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The app, served by Voila on a free port, as `make app` serves it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("voila") / "log.txt"
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    with log.open("w") as output:
        server = subprocess.Popen([sys.executable, "-m", "voila", "app.py", "--no-browser", f"--port={port}"],
                                  cwd=ROOT / "notebooks", stdout=output, stderr=output,
                                  env={**os.environ, "PYTHONPATH": path})
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
    """The app's page once its picture is there; ``page.complaints`` are the errors on its console."""
    with sync_playwright() as playwright:
        found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
        if found is None and Path(playwright.chromium.executable_path).exists():
            found = playwright.chromium.executable_path
        if found is None:
            if os.environ.get("CI") == "true":
                pytest.fail("CI=true, but there is no Chromium")
            pytest.skip("no Chromium here; `playwright install chromium` brings one")
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        page = browser.new_page(viewport=dict(width=900, height=1000))
        page.complaints = []
        page.on("console", lambda message: page.complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        # Voila's template asks a server elsewhere for icons that this page does not use. Nothing else may leave.
        page.route(lambda url: not url.startswith((address, "blob:")), lambda route: (
            route.fulfill(body="") if "fontawesome" in route.request.url else route.abort()))
        page.goto(address, timeout=60_000)
        page.locator("img.widget-image").wait_for(timeout=60_000)
        yield page
        browser.close()


def picture(page):
    return page.locator("img.widget-image").evaluate(BYTES)


def said(page):
    text = page.get_by_role("status").inner_text()
    return text, re.findall(r"“(\w+), p = [\d.]+”", text)


def wait_for_another(page, before):
    deadline = time.monotonic() + 20
    while picture(page) == before:
        assert time.monotonic() < deadline, "the picture's bytes did not change"
        page.wait_for_timeout(50)
    return picture(page)


def test_the_slider_moves_by_keyboard_and_mouse_and_the_prediction_stays(page):
    text, predictions = said(page)
    assert "β = 512" in text and predictions == ["cat", "cat"]
    slider = page.get_by_role("slider")
    label = page.locator(".widget-readout").first
    expect(label).to_have_text("512")
    before = picture(page)

    slider.focus()
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    after = wait_for_another(page, before)
    expect(label).to_have_text("1024")
    expect(page.get_by_role("status")).to_contain_text("β = 1024")
    assert said(page)[1] == ["cat", "cat"]

    track = page.locator(".noUi-base").first.bounding_box()
    handle = page.locator(".noUi-handle").first.bounding_box()
    page.mouse.move(handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2)
    page.mouse.down()
    page.mouse.move(track["x"] + track["width"] - 1, track["y"] + track["height"] / 2, steps=8)
    page.mouse.up()
    expect(label).to_have_text("8192")
    expect(page.get_by_role("status")).to_contain_text("β = 8192")
    wait_for_another(page, after)
    assert said(page)[1] == ["cat", "cat"] and "inf" not in said(page)[0]
    assert page.locator("img.widget-image").count() == 1
    (ROOT / "build").mkdir(exist_ok=True)
    page.screenshot(path=ROOT / "build" / "app.png", full_page=True)
    assert page.complaints == []


def test_every_control_has_a_name_and_works_by_keyboard(page):
    # The slider is not here: ipywidgets gives its handle no name. What it does is said by the status.
    for role, name in (("combobox", "network"), ("combobox", "photograph"),
                       ("combobox", "perturbation"), ("checkbox", "stay in [0, 1]"), ("button", "new random draw")):
        expect(page.get_by_role(role, name=name)).to_have_count(1)
    assert "the relative change of each layer" in page.get_by_role("img", name="From left").get_attribute("title")

    before = picture(page)
    page.get_by_role("checkbox", name="stay in").focus()
    page.keyboard.press("Space")
    before = wait_for_another(page, before)
    expect(page.get_by_role("status")).to_contain_text("It stays in [0, 1]")
    page.get_by_role("button", name="new random draw").focus()
    page.keyboard.press("Enter")
    before = wait_for_another(page, before)
    page.get_by_role("combobox", name="network").select_option("stridenet")
    wait_for_another(page, before)
    expect(page.get_by_role("status")).to_contain_text("windows of the first layer overlap")
    assert page.complaints == []
