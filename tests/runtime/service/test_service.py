"""What a client gets: pictures, JSON, cameras, the bundle, health and metrics, of a real server."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import time
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest
from cameras import HttpCamera

from immunecam.runtime.bundle import default_bundle
from immunecam.runtime.purifier import Purifier


@pytest.fixture(scope="module")
def camera(frame):
    made = HttpCamera(frame, rate=20)
    yield made
    made.stop()


@pytest.fixture(scope="module")
def server(start, camera):
    clip = default_bundle().with_name("sample.mp4")
    return start(
        *("--mutation", "threshold", "--batch-wait-ms", "100"),
        *("--camera", f"door={camera.url}?key=secret", "--camera", f"clip={clip}"),
    )


@pytest.fixture
def client(server):
    with httpx.Client(base_url=server.url, timeout=60) as made:
        yield made


@pytest.fixture(scope="module")
def purified(photo):
    """What the library makes of the same picture, as far as no chance is in it."""
    image = cv2.imdecode(np.frombuffer(photo, np.uint8), cv2.IMREAD_COLOR)
    with Purifier.load(mutation="threshold", threads=1) as purifier:
        return purifier.purify_frame(image)


def decoded(data: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)


def about_equal(one, other):
    """The service purifies pixels, as the gate does, the library what it aligned before rounding: some grey levels."""
    return one.shape == other.shape and np.abs(one.astype(int) - other).mean() < 0.5


def test_a_picture_comes_back_purified(client, photo, purified):
    answer = client.post("/v1/purify?output=image", content=photo, headers={"content-type": "image/png"})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["x-immunecam-faces"] == "3"
    stages = re.findall(r"(\w+);dur=([\d.]+)", answer.headers["server-timing"])
    assert {"decode", "find", "align", "wait", "engine"} <= {name for name, _ in stages}
    assert about_equal(decoded(answer.content), purified.frame)
    jpeg = client.post("/v1/purify?output=image&format=jpeg", content=photo)
    assert jpeg.content.startswith(b"\xff\xd8")


def test_curl_as_the_documents_call_it(server, photo, tmp_path):
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    (tmp_path / "in.jpg").write_bytes(photo)
    said = (Path(__file__).parents[3] / "docs" / "service.md").read_text()
    lines = re.findall(r"^curl .*/v1/purify.*$", said.replace("http://127.0.0.1:8600", server.url), re.MULTILINE)
    assert len(lines) == 3
    picture, form, _ = (line.replace("a.jpg", "in.jpg").replace("b.jpg", "in.jpg") for line in lines)
    subprocess.run(picture, shell=True, cwd=tmp_path, check=True, capture_output=True)
    assert cv2.imread(str(tmp_path / "out.png")).shape == decoded(photo).shape
    answer = subprocess.run(form, shell=True, cwd=tmp_path, check=True, capture_output=True).stdout
    assert [len(found["faces"]) for found in json.loads(answer)["pictures"]] == [3, 3]


def test_a_picture_as_json(client, photo, purified):
    answer = client.post("/v1/purify?crops=true&picture=true", content=photo).json()
    assert answer["mutation"] == "threshold"
    (picture,) = answer["pictures"]
    assert (picture["height"], picture["width"]) == purified.frame.shape[:2]
    assert about_equal(decoded(base64.b64decode(picture["picture"])), purified.frame)
    assert len(picture["faces"]) == len(purified.faces) == 3
    for index, face in enumerate(picture["faces"]):
        assert face["box"] == pytest.approx(purified.faces[index].box.tolist(), abs=0.01)
        assert np.shape(face["landmarks"]) == (5, 2)
        assert about_equal(decoded(base64.b64decode(face["purified"])), purified.purified[index])
        assert face["active"] == pytest.approx((purified.probabilities[index] > 0.5).sum(), abs=8)
        assert 0 < face["residual"] < 1
        assert face["cosine"] is None
        assert face["embedding"] is None
    assert {"decode", "find", "align", "wait"} <= set(picture["timings_ms"])


def test_a_batch_in_one_form(client, photo, frame):
    empty = cv2.imencode(".jpg", np.full((64, 64, 3), 90, np.uint8))[1].tobytes()
    files = [("image", ("a.png", photo)), ("image", ("b.jpg", empty)), ("image", ("c.png", photo))]
    answer = client.post("/v1/purify?evidence=false", files=files).json()
    assert [picture["name"] for picture in answer["pictures"]] == [
        f"the picture '{name}'" for name in ("a.png", "b.jpg", "c.png")
    ]
    assert [len(picture["faces"]) for picture in answer["pictures"]] == [3, 0, 3]
    numbers = [face["number"] for picture in answer["pictures"] for face in picture["faces"]]
    assert len(set(numbers)) == 6  # each face has random numbers of its own
    refused = client.post("/v1/purify?output=image", files=files)
    assert refused.status_code == 400
    assert "there are 3 pictures, but output=image gives one" in refused.json()["error"]


def test_what_is_not_there_says_how_to_get_it(client, photo):
    for path in ("/v1/verify?person=ann", "/v1/identify"):
        answer = client.post(path, content=photo)
        assert answer.status_code == 404
        assert "started without a gate: start it with --store" in answer.json()["error"]
    answer = client.post("/v1/purify?embedding=true", content=photo)
    assert answer.status_code == 400
    assert "no recogniser: start it with --recognizer" in answer.json()["error"]


def test_the_bundle(client):
    answer = client.get("/v1/bundle").json()
    with Purifier.load(threads=1) as purifier:
        assert answer["sha256"] == purifier.bundle.sha256
        assert answer["k"] == purifier.k
    assert answer["signed_by"] is None


def test_cameras_are_listed_switched_and_seen(client, camera, frame):
    def wait_for(name):
        until = time.monotonic() + 20
        while time.monotonic() < until:
            listed = client.get("/v1/cameras").json()
            active = next(one for one in listed["cameras"] if one["active"])
            if active["name"] == name and active["status"]["state"] == "connected":
                return listed
            time.sleep(0.05)
        raise AssertionError(listed)

    listed = wait_for("door")
    assert listed["active"] == "door"
    assert "secret" not in str(listed)
    assert [one["status"] is None for one in listed["cameras"]] == [False, True]
    assert decoded(client.get("/v1/cameras/active/picture").content).shape == frame.shape
    picture = client.get("/v1/cameras/active/picture?format=png")
    other = client.get("/v1/cameras/active/picture?purified=true&format=png")
    assert other.headers["x-immunecam-faces"] == "3"
    assert np.abs(decoded(other.content).astype(int) - decoded(picture.content)).max() > 10
    assert client.put("/v1/cameras/active", json={"name": "attic"}).status_code == 404
    assert client.put("/v1/cameras/active", json={"name": "clip"}).json()["active"] == "clip"
    wait_for("clip")
    assert client.put("/v1/cameras/active", json={"name": "door"}).status_code == 200
    wait_for("door")
    camera.silent = True
    until = time.monotonic() + 10
    while (lost := client.get("/v1/cameras/active/picture")).status_code == 200:  # what is old is not shown
        assert time.monotonic() < until
        time.sleep(0.1)
    assert lost.status_code == 503
    assert lost.headers["retry-after"] == "1"
    assert "the camera door gives no frames (stalled" in lost.json()["error"]
    text = client.get("/metrics").text
    assert 'immunecam_camera_state{camera="door",state="stalled"} 1.0' in text
    camera.silent = False


def test_metrics_count_what_happened(client, photo):
    def value(text, name):
        found = re.search(rf"^{re.escape(name)} ([\d.e+]+)$", text, re.MULTILINE)
        return float(found.group(1)) if found else 0.0

    before = client.get("/metrics").text
    assert client.post("/v1/purify", content=photo).status_code == 200
    assert client.post("/v1/purify", content=b"no picture").status_code == 400
    assert client.get("/v1/nothing").status_code == 404
    after = client.get("/metrics").text
    for name, more in {
        "immunecam_faces_total": 3,
        "immunecam_pictures_total": 1,
        'immunecam_requests_total{route="/v1/purify",status="200"}': 1,
        'immunecam_requests_total{route="/v1/purify",status="400"}': 1,
        'immunecam_requests_total{route="other",status="404"}': 1,
        "immunecam_active_antibodies_count": 3,
        "immunecam_batch_faces_sum": 3,
        'immunecam_stage_seconds_count{stage="find"}': 1,
    }.items():
        assert value(after, name) - value(before, name) == more, name
    assert value(after, "immunecam_waiting_faces") == 0
    assert value(after, "immunecam_active_antibodies_sum") > 0


def test_health_and_the_description(client):
    assert client.get("/healthz").json() == {"status": "alive"}
    assert client.get("/readyz").json() == {"status": "ready"}
    described = client.get("/openapi.json").json()
    assert {"/v1/purify", "/v1/verify", "/v1/identify", "/v1/cameras", "/v1/bundle", "/metrics"} <= set(
        described["paths"]
    )
    assert "multipart/form-data" in described["paths"]["/v1/purify"]["post"]["requestBody"]["content"]
    for path in ("/healthz", "/readyz", "/v1/bundle", "/"):  # what a monitor asks
        asked = client.head(path)
        assert (asked.status_code, asked.content) == (200, b"")
        assert asked.headers["content-length"] == client.get(path).headers["content-length"]
    for page in ("/docs", "/redoc"):  # they fetch scripts from elsewhere
        assert client.get(page).status_code == 404


def test_requests_side_by_side_share_batches(server, photo):
    import concurrent.futures

    def ask(_):
        return httpx.post(f"{server.url}/v1/purify", content=photo, timeout=60).json()["pictures"][0]["faces"]

    def sums():
        text = httpx.get(f"{server.url}/metrics").text
        return [float(re.search(rf"immunecam_batch_faces_{kind} ([\d.]+)", text).group(1)) for kind in ("sum", "count")]

    faces, batches = sums()
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(ask, range(24)))
    assert all(len(found) == 3 for found in answers)
    numbers = [face["number"] for found in answers for face in found]
    assert len(set(numbers)) == len(numbers)
    later_faces, later_batches = sums()
    assert later_faces - faces == 72
    assert later_batches - batches < 24
