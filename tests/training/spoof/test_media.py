"""Sheets, ink, screens, light and the camera do what physics says they do."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from immunecam.training.spoof.backdrop import glare
from immunecam.training.spoof.camera import capture
from immunecam.training.spoof.colouring import coloured, skin_tint
from immunecam.training.spoof.coverings import cap, face_mask, glasses
from immunecam.training.spoof.cutting import REGIONS, cut_out
from immunecam.training.spoof.face_shape import pose_of
from immunecam.training.spoof.light import displayed, illuminate, linear, luminance
from immunecam.training.spoof.paper import Printer, fibres, folds, printed
from immunecam.training.spoof.pictures import TEMPLATE
from immunecam.training.spoof.screen import bands, shown
from immunecam.training.spoof.sheet import hold

_SIDE = 128


def flat(seed: int = 0, tilt: float = 0.0, bend: float = 0.0):
    return hold(
        np.random.default_rng(seed), _SIDE, pixels=40.0, centre=np.array([64.0, 50.0]), tilt=tilt + 1e-9, bend=bend
    )


def test_light_and_levels_are_inverse():
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    np.testing.assert_allclose(displayed(linear(levels)) * 255, levels, atol=0.01)


@given(st.integers(0, 1000), st.floats(0, 15))
def test_a_flat_sheet_is_where_its_matrix_says(seed, tilt):
    sheet = flat(seed, tilt)
    y, x = np.mgrid[:_SIDE, :_SIDE] + 0.5
    places = np.stack([sheet.u, sheet.v, np.ones_like(sheet.u)], -1) @ sheet.to_picture.T
    np.testing.assert_allclose(places[..., 0] / places[..., 2], x, atol=2e-3)
    np.testing.assert_allclose(places[..., 1] / places[..., 2], y, atol=2e-3)


def test_a_bent_sheet_shows_more_paper_and_turns_away():
    still, bent = flat(3), flat(3, bend=0.5)
    assert float(np.ptp(bent.u) + np.ptp(bent.v)) > float(np.ptp(still.u) + np.ptp(still.v)) + 0.05
    assert float(bent.facing.min()) < 0.97
    assert float(still.facing.min()) > 0.999


def test_a_rectangle_is_as_large_as_it_says():
    area = float(flat().rectangle(-1, -0.5, 1, 0.5).sum())
    assert area == pytest.approx(2 * 40 * 40, rel=0.03)
    assert float(flat().rectangle(-1, -0.5, 1, 0.5, 0.4).sum()) < area


def test_a_print_keeps_tones_and_shows_dots():
    sheet = flat()
    printer = Printer(dots=10.0, contrast=1.0, saturation=1.0, white=(0.9, 0.9, 0.9), black=0.02, gain=1.0)
    tones = []
    for tone in (0.1, 0.4, 0.8):
        light = printed(np.full((_SIDE, _SIDE, 3), tone, np.float32), sheet, printer)
        assert 0.02 - 1e-4 <= float(light.min()) <= float(light.max()) <= 0.9 + 1e-4
        tones.append(float(light.mean()))
    assert tones == sorted(tones)
    # Dots are 4 pixels apart on the screen that is not turned: 32 of them across 128.
    light = printed(np.full((_SIDE, _SIDE, 3), 0.2, np.float32), sheet, printer)
    spectrum = np.abs(np.fft.rfft(light[..., 2].mean(0) - light[..., 2].mean()))
    assert int(spectrum.argmax()) in (31, 32, 33)
    smooth = printed(np.full((_SIDE, _SIDE, 3), 0.2, np.float32), sheet, Printer(10, 0.0, 1, (0.9, 0.9, 0.9), 0.02, 1))
    assert float(smooth.std()) < 0.1 * float(light.std())


def test_inks_are_paler_than_light():
    red = np.tile(np.array([0.8, 0.1, 0.1], np.float32), (_SIDE, _SIDE, 1))
    light = printed(red, flat(), Printer(10, 0.0, 0.5, (0.9, 0.9, 0.9), 0.03, 1))
    assert float(np.ptp(light.mean((0, 1)))) < 0.6


def test_a_screen_has_coloured_stripes_and_its_own_light():
    light = shown(np.random.default_rng(0), np.full((_SIDE, _SIDE, 3), 0.5, np.float32), flat())
    assert float(light.std((0, 1)).min()) > 0.03
    black = shown(np.random.default_rng(0), np.zeros((_SIDE, _SIDE, 3), np.float32), flat())
    assert 0 < float(black.mean()) < 0.06
    rows = bands(np.random.default_rng(0), _SIDE)
    assert rows.shape == (_SIDE, 1, 1)
    assert float(rows.mean()) == pytest.approx(1, abs=0.15)


def test_paper_is_uneven_about_one():
    rng = np.random.default_rng(0)
    assert float(fibres(rng, flat(), 0.03).mean()) == pytest.approx(1, abs=0.02)
    assert float(folds(rng, flat(), 0).std()) == 0
    assert float(folds(rng, flat(), 3).std()) > 0.01


@pytest.mark.parametrize("region", REGIONS)
def test_scissors_leave_a_part(region):
    left = cut_out(np.random.default_rng(1), flat(), region)
    wider = cut_out(np.random.default_rng(1), flat(), region, 0.05)
    assert 0.05 < float(left.mean()) < 0.7
    assert (wider >= left - 1e-6).all()
    assert float(wider.mean()) > float(left.mean())
    left_eye = left[50, 44]
    assert left_eye == (1 if region == "eyes" else 0)
    with pytest.raises(ValueError, match="region must be one of"):
        cut_out(np.random.default_rng(1), flat(), "ears")


def test_illuminations_differ_as_they_are_called():
    def seen(kind: int) -> np.ndarray:
        found = [illuminate(np.random.default_rng(n), kind, 32) for n in range(20)]
        return np.mean(
            [[x.front.mean() * x.exposure, x.behind.mean() / x.front.mean(), x.front.std()] for x in found], 0
        )

    normal, strong, back, dark = (seen(kind) for kind in (1, 2, 3, 4))
    assert dark[0] < 0.4 * normal[0]
    assert back[1] > 5 * normal[1]
    assert strong[2] > 3 * normal[2]
    with pytest.raises(ValueError, match="illumination must be"):
        illuminate(np.random.default_rng(0), 5, 32)


def test_gloss_mirrors_more():
    matte, gloss = (
        np.mean([glare(np.random.default_rng(n), flat(), g).mean() for n in range(10)]) for g in (0.05, 0.25)
    )
    assert gloss > 3 * matte > 0


@given(st.integers(0, 500))
def test_skin_has_luminance_one(seed):
    tint = skin_tint(np.random.default_rng(seed))
    assert float(luminance(tint)) == pytest.approx(1, abs=1e-5)
    assert tint[0] > tint[1] > tint[2]


def test_colour_keeps_luminance():
    grey = np.repeat(np.linspace(0.05, 0.3, 112 * 112, dtype=np.float32).reshape(112, 112, 1), 3, 2)
    light = coloured(np.random.default_rng(0), grey, pose_of(TEMPLATE))
    # Where it is not the red of lips on skin, only the tint has changed.
    changed = np.abs(luminance(light) - grey[..., 0]) / grey[..., 0]
    assert float(np.median(changed)) < 0.01
    cheek = light[80, 40]
    assert cheek[0] > 1.15 * cheek[1] > 1.15 * cheek[2]


@pytest.mark.parametrize(
    ("put_on", "covered", "free"),
    [(glasses, (52, 45), (100, 56)), (cap, (20, 56), (90, 56)), (face_mask, (90, 56), (50, 38))],
)
def test_coverings_are_where_they_belong(put_on, covered, free):
    grey = np.full((112, 112, 3), 0.25, np.float32)
    changed = np.mean(
        [np.abs(put_on(np.random.default_rng(n), grey, pose_of(TEMPLATE)) - grey).sum(-1) > 1e-4 for n in range(8)], 0
    )
    assert changed[covered] >= 0.5
    assert changed[free] == 0
    assert float(grey.std()) == 0  # the face itself is left alone


def test_the_camera_adds_noise_and_saturates():
    light = np.full((224, 224, 3), 0.2, np.float32)

    def deviation(noise: float) -> float:
        return float(capture(np.random.default_rng(0), light, 112, noise=noise).astype(float).std())

    assert capture(np.random.default_rng(0), light, 112).shape == (112, 112, 3)
    assert deviation(8) > 2 * deviation(1)
    assert capture(np.random.default_rng(0), light, 112, exposure=20).min() > 250
