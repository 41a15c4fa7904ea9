"""What viewers share, what they miss, and that nothing is done when nobody looks: with a real camera and purifier."""

from __future__ import annotations

import asyncio
import email
import json
import time

import cv2
import httpx
import numpy as np
import pytest
from cameras import HttpCamera

from immunecam.runtime.faces import face_finder
from immunecam.runtime.faces.cascade import CascadeFinder
from immunecam.runtime.purifier import Purifier
from immunecam.runtime.service.cameras import CameraDeck
from immunecam.runtime.service.live_view import LiveView
from immunecam.runtime.service.metrics import ServiceMetrics
from immunecam.runtime.service.purification import Purification
from immunecam.runtime.service.refusal import Overloaded, Refusal
from immunecam.runtime.service.view_picture import noise_picture, view_jpeg

TOKEN = "the-token-of-these-tests"


@pytest.fixture(scope="module")
def camera(frame):
    made = HttpCamera(cv2.resize(frame, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), rate=20)
    yield made
    made.stop()


@pytest.fixture(scope="module")
def cameras(camera):
    deck = CameraDeck({"door": camera.url})
    until = time.monotonic() + 20
    while deck.status()[0]["status"]["state"] != "connected":
        assert time.monotonic() < until
        time.sleep(0.02)
    yield deck
    deck.close()


@pytest.fixture(scope="module")
def purifier():
    with Purifier.load(mutation="threshold", threads=1) as made:
        yield made


@pytest.fixture
def view(cameras, purifier):
    purification = Purification(purifier, face_finder(), max_pixels=10**7)
    made = LiveView(cameras, purification, ServiceMetrics(purifier.k))
    yield made
    made.close()


async def shown(view, mode, after=0):
    """The next frame, asked for until it is there, as the page does."""
    until = time.monotonic() + 30
    while (seen := await view.next(mode, after)) is None:
        assert time.monotonic() < until
    return seen


def batches(view):
    """How often the engine ran for the view."""
    return int(view._metrics._registry.get_sample_value("immunecam_batch_faces_count"))


def test_a_frame_before_and_after(view, purifier, camera):
    async def look():
        return await shown(view, "threshold"), await shown(view, None)

    purified, plain = asyncio.run(look())
    assert (purified.width, purified.height) == camera.image.shape[1::-1]
    assert len(purified.faces) == len(purified.active) == 3
    assert purified.probabilities.shape == (3, purifier.k)
    assert purified.active == pytest.approx((purified.probabilities > 0.5).sum(1))
    jpegs = (purified.before, purified.after, purified.noise)
    before, after, noise = (cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) for data in jpegs)
    assert np.abs(before.astype(int) - after).max() > 10
    assert noise.ndim == 2
    assert np.median(noise) == 128
    assert {"find", "align", "engine", "paste", "picture"} <= set(purified.timings_ms)
    assert plain.after is plain.noise is None
    assert plain.active.size == 0


def test_many_viewers_cost_one_purification_a_frame(view):
    each: dict[int, list[int]] = {}

    async def viewer(name, rest_s, until):
        numbers = [0]
        while time.monotonic() < until:
            seen = await view.next("threshold", numbers[-1])
            if seen is not None:
                numbers.append(seen.number)
            await asyncio.sleep(rest_s)
        each[name] = numbers[1:]

    async def look():
        await shown(view, "threshold")  # the first takes longest
        until = time.monotonic() + 2
        await asyncio.gather(*(viewer(name, 0, until) for name in range(8)), viewer(-1, 0.6, until))

    asyncio.run(look())
    frames = {number for numbers in each.values() for number in numbers}
    assert len(frames) >= 3
    assert len(frames) <= batches(view) <= max(frames)
    assert all(numbers == sorted(set(numbers)) for numbers in each.values())  # each frame once, none old
    assert 1 <= len(each[-1]) <= 4  # who rests for 0.6 s misses what came meanwhile
    rest = batches(view)
    time.sleep(0.5)
    assert batches(view) == rest  # nobody looks


def test_a_slow_machine_tells_the_state_and_loses_no_frame(cameras, purifier):
    class SlowFinder(CascadeFinder):
        def find(self, frame):
            time.sleep(1.2)
            return super().find(frame)

    async def look():
        waits, seen = [], None
        while seen is None:
            began = time.monotonic()
            seen = await view.next("threshold", 0)
            waits.append(time.monotonic() - began)
        return waits, seen.number

    view = LiveView(cameras, Purification(purifier, SlowFinder(), max_pixels=10**7), ServiceMetrics(purifier.k))
    try:
        waits, number = asyncio.run(look())
    finally:
        view.close()
    assert number == 1
    assert len(waits) >= 3
    assert max(waits) < 1.0
    assert batches(view) == 1


def test_modes_are_made_of_the_same_faces_and_leave_the_service_alone(view, purifier):
    async def look():
        return await asyncio.gather(*(shown(view, mode) for mode in ("sample", "threshold", "expected", None)))

    seen = asyncio.run(look())
    assert len({one.number for one in seen}) == 1
    assert len({one.before for one in seen}) == 1
    assert len({one.after for one in seen}) == 4
    assert purifier.mutation == "threshold"


def test_a_viewer_that_goes_away_spoils_nobody_elses(view):
    async def look():
        first = asyncio.ensure_future(view.next("threshold", 0))
        other = asyncio.ensure_future(shown(view, "threshold"))
        await asyncio.sleep(0.02)
        first.cancel()
        return await other

    assert asyncio.run(look()).number == 1


def test_too_many_viewers_are_told_to_come_back(view):
    async def look():
        crowd = await asyncio.gather(*(view.next("threshold", 0) for _ in range(18)), return_exceptions=True)
        return crowd, await shown(view, None)

    crowd, later = asyncio.run(look())
    refused = [one for one in crowd if isinstance(one, Overloaded)]
    assert len(refused) == 2
    assert refused[0].status == 429
    assert later.number > 0  # the places are free again


def test_a_camera_that_falls_silent_is_told_at_once(view, camera, cameras):
    async def look():
        number, began = 0, time.monotonic()
        while time.monotonic() - began < 5:
            seen = await view.next(None, number)
            status = cameras.status()[0]["status"]
            if seen is not None:
                number, camera.silent = seen.number, True
            elif status["state"] != "connected":
                return status
        raise AssertionError("nobody was told")

    try:
        status = asyncio.run(look())
    finally:
        camera.silent = False
    assert status["state"] == "stalled"
    assert status["since_s"] < 0.25


def test_a_mode_that_is_none_is_refused(view):
    with pytest.raises(Refusal, match="the engine was built for the mutation sample, threshold, expected, not often"):
        asyncio.run(view.next("often", 0))


def test_noise_is_signed_around_mid_grey():
    before = np.full((4, 6, 3), 100, np.uint8)
    after = before.copy()
    after[0] += 5
    after[1] -= 5
    after[2] += 50
    assert noise_picture(before, after)[:, 0].tolist() == [78, 178, 0, 128]


@pytest.mark.parametrize(("size", "shown"), [((1080, 1920), (540, 960)), ((2000, 10), (960, 5)), ((3, 5), (3, 5))])
def test_pictures_of_the_view_are_small(size, shown):
    picture = cv2.imdecode(np.frombuffer(view_jpeg(np.zeros((*size, 3), np.uint8)), np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape[:2] == shown


def test_what_a_browser_is_sent(start, camera):
    server = start("--camera", f"door={camera.url}", environment={"IMMUNECAM_SERVICE_TOKEN": TOKEN})
    with httpx.Client(base_url=server.url, timeout=60) as client:
        for path in ("/", "/page/main.js", "/page/page.css", "/page/icon.svg"):  # which hold no secret
            answer = client.get(path)
            assert answer.status_code == 200
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy
            assert "unsafe" not in policy
        assert client.get("/page/service.py").status_code == 404
        assert client.get("/page/..%2Fwork.py").status_code == 404
        assert client.get("/", headers={"origin": "http://evil.example"}).status_code == 403
        for path in ("/v1/view", "/v1/view/frame", "/page.json"):
            assert client.get(path).status_code == 401
        client.headers["authorization"] = f"Bearer {TOKEN}"
        about = client.get("/v1/view").json()
        assert about["modes"] == ["sample", "threshold", "expected"]
        assert about["gate"] is None
        until = time.monotonic() + 20
        while True:
            parts = parts_of(client, "mutation=expected")
            if len(parts) > 1:
                break
            assert time.monotonic() < until
        state = json.loads(parts[0].get_payload(decode=True))
        names = [part.get_param("name", header="content-disposition") for part in parts]
        assert names == ["state", "before", "after", "noise"]
        assert all(part.get_payload(decode=True).startswith(b"\xff\xd8") for part in parts[1:])
        assert [len(face["probabilities"]) for face in state["frame"]["faces"]] == [128] * 3
        assert state["frame"]["latency_ms"] > 0
        assert state["cameras"][0]["status"]["state"] == "connected"
        assert client.get("/v1/view/frame?after=-1").status_code == 422
        assert client.get("/v1/view/frame?mutation=often").status_code == 422
        names = [part.get_param("name", header="content-disposition") for part in parts_of(client, "purify=false")]
        assert names == ["state", "before"]


def parts_of(client, query):
    answer = client.get(f"/v1/view/frame?{query}")
    head = f"Content-Type: {answer.headers['content-type']}\r\n\r\n".encode()
    return email.message_from_bytes(head + answer.content).get_payload()
