"""The live page in a real, headless Chromium: of a real server, with real cameras."""

from __future__ import annotations

import contextlib
import re
import time

import cv2
import httpx
import numpy as np
import pytest
from cameras import HttpCamera
from small_gate import write_people, write_recognizer

from immunecam.benchmarks.live_page import browser, set_screen
from immunecam.errors import BackendMissingError
from immunecam.runtime.bundle import default_bundle

TOKEN = "the-token-of-these-tests"
WAIT_S = 20  # for a busy machine; what must be fast is timed

PIXELS = """
const pixels = (id) => {
  const shown = document.getElementById(id);
  const copy = Object.assign(document.createElement("canvas"), { width: shown.width, height: shown.height });
  const context = copy.getContext("2d", { willReadFrequently: true });
  context.drawImage(shown, 0, 0);
  return context.getImageData(0, 0, copy.width, copy.height).data;
};
"""
# A number that is another one for another picture.
SUM = f"{PIXELS} return pixels(arguments[0]).reduce((sum, value) => (sum * 31 + value) % 1000000007, 0);"
# How far two pictures are from each other, in the pixel where they are furthest.
APART = f"""{PIXELS}
const [one, other] = [pixels(arguments[0]), pixels(arguments[1])];
return one.reduce((most, value, index) => Math.max(most, Math.abs(value - other[index])), 0);
"""
# What stands over a picture that is not of now.
OLD = "return document.getElementById('before').parentElement.dataset.old;"


def wait_for(found, what, wait_s=WAIT_S):
    """The first value of `found` that is true."""
    until = time.monotonic() + wait_s
    while time.monotonic() < until:
        value = found()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError(f"{what} did not come within {wait_s} s")


@pytest.fixture(scope="module")
def chromium():
    with contextlib.ExitStack() as stack:
        try:
            opened = stack.enter_context(browser())
        except BackendMissingError as error:
            pytest.skip(str(error))
        opened.set_script_timeout(WAIT_S)
        yield opened


@pytest.fixture(scope="module")
def camera():
    made = HttpCamera(rate=10)  # small pictures of changing grey
    yield made
    made.stop()


@pytest.fixture(scope="module")
def server(start, camera):
    clip = default_bundle().with_name("sample.mp4")
    cameras = ("--camera", f"clip={clip}", "--camera", f"door={camera.url}")
    return start(*cameras, environment={"IMMUNECAM_SERVICE_TOKEN": TOKEN})


class Page:
    """What a person sees of the page, and does with it."""

    def __init__(self, chromium, url):
        self.chromium, self.url = chromium, url

    def open(self):
        self.chromium.get_log("browser")  # of the page before
        self.chromium.get(self.url)
        return self

    def js(self, script, *arguments):
        return self.chromium.execute_script(script, *arguments)

    def one(self, selector):
        return self.chromium.find_element("css selector", selector)

    def text(self, selector):
        return self.one(selector).text

    def state(self):
        return self.js("return document.getElementById('state').dataset.state")

    def connected(self):
        wait_for(lambda: self.state() == "connected", "a connected camera")
        return self

    def asked(self):
        wait_for(lambda: self.js("return document.getElementById('ask').open"), "the question for the token")

    def keys(self, *keys):
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.chromium).send_keys(*keys).perform()

    def complaints(self):
        return [line["message"] for line in self.chromium.get_log("browser")]


@pytest.fixture
def page(chromium, server, camera):
    set_screen(chromium, 1280, 900)
    camera.silent = False
    opened = Page(chromium, server.url).open()
    if not opened.js("return sessionStorage.length"):  # else it is kept in the tab
        opened.asked()
        opened.keys(TOKEN, "\n")
    choose(server, "clip")
    opened.connected()
    opened.complaints()  # of the browser itself, that there was no token
    return opened


def choose(server, camera):
    headers = {"Authorization": f"Bearer {TOKEN}"}
    httpx.put(f"{server.url}/v1/cameras/active", json={"name": camera}, headers=headers).raise_for_status()


def test_it_shows_moving_frames_and_what_was_made_of_them(page):
    first = {name: page.js(SUM, name) for name in ("before", "after", "noise")}
    wait_for(lambda: all(page.js(SUM, name) != one for name, one in first.items()), "another frame in all pictures")
    assert page.js(APART, "before", "after") > 10
    assert page.one("#before").get_attribute("aria-label") == "Before purification, 3 faces"
    assert page.text("#camera option") == "clip"
    assert page.text("#active").endswith("of 512")
    assert page.text("#active").count("face ") == 3
    wait_for(lambda: float(page.text("#shown-rate")) > 0, "a rate of frames")
    wait_for(
        lambda: page.text("#camera-rate") != "–" and 6 < float(page.text("#camera-rate")) < 16, "the camera's rate"
    )
    assert "median" in page.text("#latency-text")
    assert "find" in page.text("#stages")
    for chart in ("#latency", "#probabilities"):
        words = page.js(
            "return [...document.querySelectorAll(arguments[0] + ' text')].map((t) => t.textContent)", chart
        )
        assert any(word in words for word in ("milliseconds", "probability"))
        assert len(page.js("return document.querySelector(arguments[0] + ' path').getAttribute('d')", chart)) > 20
    assert "No gate" in page.text("#gate-none")
    assert page.complaints() == []


def test_the_purifier_is_switched_off_in_this_view_alone(page):
    wait_for(lambda: page.js(APART, "before", "after") > 10, "a purified picture")
    page.one("#purify").click()
    wait_for(lambda: page.js(APART, "before", "after") == 0, "the same picture twice")
    assert page.text("#purify-word") == "off"
    assert page.text("#after-note") == "purifier off, in this view only"
    assert page.text("#active") == "not purified"
    assert not page.one("#mutation input").is_enabled()
    page.one("#purify").click()
    wait_for(lambda: page.js(APART, "before", "after") > 10, "a purified picture again")
    assert page.complaints() == []


def test_the_keyboard_reaches_and_works_everything(page):
    from selenium.webdriver.common.keys import Keys

    seen = []
    for _ in range(12):
        page.keys(Keys.TAB)
        seen.append(page.js("return document.activeElement.id || document.activeElement.className"))
        outline = page.js("return getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid" or seen[-1] == "", seen  # the focus is seen
        if seen[-1] == "purify":
            break
    assert seen[:2] == ["skip", "camera"]
    page.keys(Keys.SPACE)
    wait_for(lambda: page.text("#purify-word") == "off", "the switch")
    page.keys(Keys.SPACE, Keys.TAB, Keys.ARROW_DOWN)
    wait_for(
        lambda: page.js("return document.querySelector('input[name=mutation]:checked').value") == "threshold", "it"
    )
    wait_for(lambda: page.js("return document.querySelectorAll('#probabilities .half').length") == 1, "its threshold")
    page.keys(Keys.ARROW_DOWN)
    wait_for(lambda: "." in page.text("#active"), "weights, which are no whole numbers")
    assert page.complaints() == []


def test_the_old_cameras_picture_does_not_pass_for_the_new_ones(page, camera):
    camera.silent = True
    wait_for(lambda: page.js(OLD) == "", "a picture of now")
    page.one("#camera option[value=door]").click()
    wait_for(lambda: page.js(OLD) == "no picture yet", "that there is no picture of this camera", 2)
    camera.silent = False
    wait_for(lambda: page.js(OLD) == "", "its picture")
    assert page.one("#before").get_attribute("width") == "64"


def test_an_error_of_the_page_is_not_called_one_of_the_network(page):
    page.js("window.kept = createImageBitmap; createImageBitmap = () => { throw new Error('no more pictures'); }")
    wait_for(lambda: page.state() == "failed", "the page's word")
    assert "This page has failed (no more pictures)" in page.text("#notice")
    page.js("createImageBitmap = kept")
    page.connected()
    assert all("no more pictures" in line for line in page.complaints())


def test_without_scripts_it_says_what_it_needs(chromium, server):
    chromium.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        chromium.get(server.url)
        assert "This page needs JavaScript" in chromium.find_element("css selector", "noscript").text
    finally:
        chromium.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_a_lost_camera_is_seen_within_two_seconds(page, camera):
    page.one("#camera option[value=door]").click()
    wait_for(lambda: page.one("#before").get_attribute("width") == "64", "the other camera's picture")
    camera.silent = True
    began = time.monotonic()
    wait_for(lambda: page.state() == "stalled", "a stalled camera", 2)
    assert time.monotonic() - began < 2
    assert page.text("#state-word") == "stalled"
    assert "door is stalled" in page.text("#notice")
    assert page.js(OLD).startswith("old picture")
    camera.silent = False
    page.connected()
    assert not page.one("#notice").is_displayed()
    camera.stop()
    began = time.monotonic()
    try:
        wait_for(lambda: page.state() in ("reconnecting", "stalled"), "a lost camera", 2)
        wait_for(lambda: page.state() == "reconnecting", "a camera that is looked for")
    finally:
        camera.start()
    page.connected()
    assert page.complaints() == []


@pytest.mark.parametrize("width", [360, 768, 1280, 1920])
def test_nothing_is_wider_than_the_screen(page, width):
    set_screen(page.chromium, width, 800)
    wide = page.js("return [document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert wide[0] <= wide[1] == width
    cut = (
        "return [...document.querySelectorAll('main *, header *')].filter((e) => "
        "e.getBoundingClientRect().right > innerWidth + 0.5).map((e) => e.outerHTML.slice(0, 80))"
    )
    wait_for(lambda: page.js(cut) == [], f"a page that fits into {width} pixels")  # charts follow a moment later


def test_text_has_contrast_in_light_and_dark(page):
    for dark in (False, True):
        set_screen(page.chromium, 1280, 900, dark=dark)
        colours = page.js(
            "const style = getComputedStyle(document.documentElement);"
            "return Object.fromEntries(arguments[0].map((n) => [n, style.getPropertyValue(`--${n}`).trim()]))",
            ["panel", "ground", "ink", "soft", "good", "warn", "bad", "series", "other", "accent", "accent-ink"],
        )
        for name in ("ink", "soft", "good", "warn", "bad", "series", "other"):
            for below in ("panel", "ground"):
                assert contrast(colours[name], colours[below]) >= 4.5, (dark, name, below)
        assert contrast(colours["accent-ink"], colours["accent"]) >= 4.5


def contrast(one, other):
    """WCAG 2.2's contrast ratio of two colours, #rrggbb."""

    def light(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((light(one), light(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_the_token_is_asked_for_and_kept_in_the_tab(page, server):
    from selenium.webdriver.common.keys import Keys

    set_screen(page.chromium, 360, 740)
    page.one("#forget").send_keys(Keys.ENTER)  # no click, which goes beside what moves while charts take their size
    page.asked()
    assert page.js("return document.activeElement.id") == "token"
    page.keys(Keys.ESCAPE)  # there is nothing behind it
    assert page.one("#ask").is_displayed()
    page.keys("not the token at all", Keys.ENTER)
    wait_for(lambda: "not the token" in page.text("#ask-error"), "a refusal")
    page.keys(TOKEN, Keys.ENTER)
    page.connected()
    assert page.js("return document.documentElement.scrollWidth") <= 360
    assert all("401" in line for line in page.complaints())  # which the browser itself reports, of the wrong token
    page.chromium.refresh()
    page.connected()
    assert page.complaints() == []
    assert page.js("return [location.href, document.cookie, localStorage.length]") == [f"{server.url}/", "", 0]


@pytest.fixture(scope="module")
def door(start, tmp_path_factory):
    """A service with a gate that knows ann; its store's folder, its camera, and pictures of ann and bob."""
    pytest.importorskip("cryptography", reason="needs cryptography (pip install 'immunecam[gate]')")
    pytest.importorskip("onnx", reason="needs onnx to make a recogniser (pip install 'immunecam[train]')")
    from immunecam.runtime.gate.access_gate import AccessGate
    from immunecam.runtime.gate.calibration import calibrate_identities
    from immunecam.runtime.gate.keys import GateKey
    from immunecam.runtime.gate.operating_point import OperatingPoint

    folder = tmp_path_factory.mktemp("gate")
    people, recognizer = write_people(folder / "people"), write_recognizer(folder)
    (folder / "key").write_text(bytes(range(32)).hex())
    (folder / "key").chmod(0o600)
    pictures = {name: [cv2.imread(str(people / name / f"{i}.png")) for i in range(4)] for name in ("ann", "bob")}
    rng = np.random.default_rng(0)
    rows = np.repeat(rng.standard_normal((60, 1, 16)), 3, 1) + 0.6 * rng.standard_normal((60, 3, 16))
    rows = (rows / np.linalg.norm(rows, axis=2, keepdims=True)).reshape(180, 16).astype(np.float32)
    with AccessGate.open(folder / "door.gate", GateKey.from_file(folder / "key"), recognizer, create=True) as gate:
        setting = gate.store.setting
        rates = calibrate_identities(rows, np.repeat(np.arange(60), 3), 0.01).rates
        gate.calibrated(OperatingPoint(0.9, setting.recognizer, setting.purification, 0.01, rates=rates), {})
        gate.enrol("ann", [(str(i), picture) for i, picture in enumerate(pictures["ann"][:2])])
    options = ("--store", folder / "door.gate", "--recognizer", recognizer, "--key-file", folder / "key")
    camera = HttpCamera(pictures["ann"][2], rate=10)  # all pictures are of this size
    yield start("--camera", f"door={camera.url}", *options), folder, camera, pictures
    camera.stop()


def test_the_gates_preview_follows_the_slider_and_changes_nothing(chromium, door):
    from selenium.webdriver.common.keys import Keys

    server, folder, camera, pictures = door
    trail = sorted((folder / "door.gate.audit").rglob("*"))
    before = [file.read_bytes() for file in trail if file.is_file()]
    set_screen(chromium, 1280, 900)
    page = Page(chromium, server.url).open().connected()
    wait_for(lambda: page.text("#verdict-word") == "would be granted", "ann, who may pass")
    assert page.text("#verdict-why").startswith("nearest ann, score 0.9")
    assert page.text("#threshold-value") == "0.9000"
    assert "the gate decides at 0.9000" in page.text(".gate")
    assert "none seen, below 0.17 %" in page.text("#fmr")  # 3 / (60 * 59 / 2), the rule of three
    assert "1,770 independent" in page.text("#rates-of")
    assert len(page.js("return document.querySelectorAll('#curve .line')")) == 2
    page.js("document.getElementById('threshold').focus()")
    page.keys(Keys.END)
    wait_for(lambda: page.text("#verdict-word") == "would be denied", "a threshold that nobody reaches")
    assert page.text("#threshold-value") == "1.00"
    page.keys(Keys.HOME)
    wait_for(lambda: re.search(r"FMR\): [45]\d %", page.text("#fmr")), "a threshold that half of all strangers reach")
    assert "none of 180 seen" in page.text("#fnmr")
    page.one("#threshold-reset").click()
    assert page.text("#threshold-value") == "0.9000"
    camera.image = pictures["bob"][2]
    wait_for(lambda: page.text("#verdict-word") == "would be denied", "bob, who may not")
    camera.image = np.full_like(camera.image, 90)
    wait_for(lambda: page.text("#verdict-word") == "no face in view", "nobody")
    assert page.complaints() == []
    assert [file.read_bytes() for file in trail if file.is_file()] == before
    with httpx.Client(base_url=server.url, timeout=60) as client:
        assert client.get("/v1/view").json()["gate"]["threshold"] == 0.9
        files = [
            ("image", (f"{i}.png", cv2.imencode(".png", picture)[1].tobytes()))
            for i, picture in enumerate(pictures["ann"])
        ]
        assert client.post("/v1/identify", files=files).json()["event"] == "granted"
    wait_for(
        lambda: "Last decision asked for: granted (nearest ann" in page.text("#last-decision"), "the real decision"
    )


def test_what_is_not_there_is_said(chromium, door, start, tmp_path):
    """Without a camera, and with a gate that nobody has calibrated."""
    from immunecam.runtime.gate.access_gate import AccessGate
    from immunecam.runtime.gate.keys import GateKey

    _, folder, _, _ = door
    key, recognizer = folder / "key", folder / "r.toml"
    AccessGate.open(tmp_path / "new.gate", GateKey.from_file(key), recognizer, create=True).close()
    server = start("--store", tmp_path / "new.gate", "--recognizer", recognizer, "--key-file", key)
    set_screen(chromium, 1280, 900)
    page = Page(chromium, server.url).open()
    wait_for(lambda: page.state() == "none", "that there is no camera")
    assert "start it with --camera NAME=SOURCE" in page.text("#notice")
    assert page.js(OLD) == "no picture yet"
    assert "It is not calibrated: run “immunecam gate calibrate”" in page.text("#fmr")
    assert "the gate has no threshold yet, and decides nothing" in page.text(".gate")
    assert not page.one("#curve").is_displayed()
    assert not page.one("#threshold-reset").is_enabled()
    assert page.complaints() == []


def test_a_service_that_ends_is_told(page, server):
    assert server.stop() == 0  # though somebody looks
    wait_for(lambda: page.state() == "unreachable", "a service that is gone", 4)
    assert "does not answer" in page.text("#notice")
    assert page.text("#state-word") == "no answer"
