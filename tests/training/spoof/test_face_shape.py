"""The generic face: its pose is found back from its landmarks, and its depth is where it is."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from immunecam.training.spoof.face_shape import LANDMARKS, FacePose, face_surface, pose_of
from immunecam.training.spoof.pictures import TEMPLATE


def turned(
    yaw: float, pitch: float, roll: float, scale: float = 35.0, shift: tuple[float, float] = (56.0, 52.0)
) -> FacePose:
    y, p, r = (math.radians(value) for value in (yaw, pitch, roll))
    about_y = np.array([[math.cos(y), 0, math.sin(y)], [0, 1, 0], [-math.sin(y), 0, math.cos(y)]])
    about_x = np.array([[1, 0, 0], [0, math.cos(p), math.sin(p)], [0, -math.sin(p), math.cos(p)]])
    about_z = np.array([[math.cos(r), -math.sin(r), 0], [math.sin(r), math.cos(r), 0], [0, 0, 1]])
    return FacePose(scale, about_z @ about_x @ about_y, np.array(shift))


@given(st.floats(-40, 40), st.floats(-30, 30), st.floats(-60, 60), st.floats(10, 80))
def test_a_pose_is_found_back(yaw, pitch, roll, scale):
    pose = turned(yaw, pitch, roll, scale)
    found = pose_of(pose.project(LANDMARKS))
    np.testing.assert_allclose(found.rotation, pose.rotation, atol=1e-6)
    np.testing.assert_allclose(found.shift, pose.shift, atol=1e-6)
    assert found.scale == pytest.approx(scale)


def test_angles_have_signs():
    assert turned(25, 0, 0).angles == pytest.approx((25, 0, 0))
    assert turned(0, -15, 0).angles == pytest.approx((0, -15, 0))
    assert turned(0, 0, 20).angles == pytest.approx((0, 0, 20))
    right = turned(25, 0, 0).project(LANDMARKS)
    assert right[2, 0] > right[:2, 0].mean()  # the nose goes to the right


def test_the_template_is_about_frontal():
    yaw, pitch, roll = pose_of(TEMPLATE).angles
    assert abs(yaw) < 3
    assert abs(pitch) < 12
    assert abs(roll) < 2


@given(st.floats(-20, 20), st.floats(-20, 20))
def test_depth_is_nearest_at_the_nose(yaw, pitch):
    pose = turned(yaw, pitch, 0)
    depth = pose.depth(112, 28)
    assert depth.shape == (28, 28)
    assert depth.dtype == np.float32
    assert 0 <= depth.min() <= depth.max() <= 1
    assert depth[0, 0] == 0
    nose = pose.project(LANDMARKS[2:3])[0] / 4
    y, x = np.unravel_index(depth.argmax(), depth.shape)
    assert abs(x + 0.5 - nose[0]) <= 3
    assert abs(y + 0.5 - nose[1]) <= 3


def test_the_map_has_no_holes():
    depth = turned(0, 0, 0, scale=60).depth(224, 14)
    inside = depth > 0.2
    rows = inside.any(1).nonzero()[0]
    for row in rows:
        across = inside[row].nonzero()[0]
        assert len(across) == across[-1] - across[0] + 1


def test_the_surface_stands_out_at_the_nose():
    surface = face_surface()
    tip = surface[surface[:, 2].argmax()]
    assert tip[:2] == pytest.approx([0, 0.57], abs=0.06)


@pytest.mark.parametrize("points", [np.zeros((4, 2)), np.full((5, 2), np.nan), np.full((5, 2), 3.0)])
def test_what_must_raise(points):
    with pytest.raises(ValueError, match="a pose needs five"):
        pose_of(points)
