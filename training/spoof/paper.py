"""Prints: ink dots on paper, with the inks' small range of colours and the paper's fibres and folds."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from immunecam.training.spoof.light import GAMMA, Picture, displayed, luminance
from immunecam.training.spoof.sheet import Sheet

__all__ = ["Printer", "draw_printer", "fibres", "folds", "printed"]

_ANGLES = (math.radians(15), math.radians(75), 0.0)  # of the screens of cyan, magenta and yellow


@dataclass(frozen=True)
class Printer:
    """How a picture gets onto paper.

    Attributes
    ----------
    dots : float
        Ink dots along one distance between the pictured eyes.
    contrast : float
        Of the dots: 1 are hard, 0 a continuous tone (dots too fine, or ink that has run).
    saturation : float
        Of the inks.
    white : tuple of float
        Light that bare paper gives back, (R, G, B).
    black : float
        Light that full ink gives back.
    gain : float
        Gamma by which tones darken as dots grow (dot gain).
    """

    dots: float
    contrast: float
    saturation: float
    white: tuple[float, float, float]
    black: float
    gain: float


def draw_printer(rng: np.random.Generator, pixels: float, *, coarse: bool = False) -> Printer:
    """A printer whose dots are 1.2 to 3.2 of the camera's pixels apart, or, on a poster, 3 to 6."""
    pitch = rng.uniform(3.0, 6.0) if coarse else rng.uniform(1.2, 3.2)
    warm, bright = rng.uniform(-0.06, 0.06), rng.uniform(0.75, 0.95)
    return Printer(
        dots=pixels / pitch,
        contrast=rng.uniform(0.35, 0.8),
        saturation=rng.uniform(0.45, 0.85),
        white=(bright * (1 + warm), bright, bright * (1 - warm)),
        black=rng.uniform(0.015, 0.06),
        gain=rng.uniform(1.0, 1.3),
    )


def printed(light: Picture, sheet: Sheet, printer: Printer) -> Picture:
    """(side, side, 3) light that a print gives back under normal light.

    Parameters
    ----------
    light : ndarray
        (side, side, 3) linear light of the picture to print, as `sheet` shows it.
    sheet : Sheet
        Where the dots are.
    printer : Printer
    """
    grey = luminance(light)[..., None]
    tone = displayed(grey + printer.saturation * (light - grey))
    dotted = np.empty_like(tone)
    for channel, angle in enumerate(_ANGLES):
        c, s = 2 * math.pi * printer.dots * math.cos(angle), 2 * math.pi * printer.dots * math.sin(angle)
        screen = 0.5 + 0.25 * (np.cos(c * sheet.u + s * sheet.v) + np.cos(c * sheet.v - s * sheet.u))
        # A dot grows from the screen's tops as the tone falls: light where the tone is above the screen.
        dotted[..., channel] = np.clip(4 * (tone[..., channel] - screen) + 0.5, 0, 1)
    tone = tone + printer.contrast * (dotted - tone)
    ink = cv2.pow(tone, GAMMA * printer.gain)
    result: Picture = printer.black + (np.array(printer.white, np.float32) - printer.black) * ink
    return result.astype(np.float32)


def fibres(rng: np.random.Generator, sheet: Sheet, strength: float) -> Picture:
    """(side, side, 1) factor near 1: the fine unevenness of paper, fixed to the sheet."""
    grain = rng.standard_normal((128, 128), np.float32)
    grain = 0.6 * grain + 0.4 * 4 * cv2.GaussianBlur(grain, (0, 0), 2.0, borderType=cv2.BORDER_REFLECT_101)
    scale = sheet.pixels / rng.uniform(0.7, 1.6)
    x, y = np.mod(sheet.u * scale, 127), np.mod(sheet.v * scale, 127)
    shown = cv2.remap(grain, x, y, cv2.INTER_LINEAR)
    result: Picture = (1 + strength * shown)[..., None]
    return result


def folds(rng: np.random.Generator, sheet: Sheet, count: int) -> Picture:
    """(side, side, 1) factor near 1: creases, each with a lit and a shaded flank."""
    shade = np.ones_like(sheet.u)
    for _ in range(count):
        angle, place = rng.uniform(0, math.pi), rng.uniform(-1.5, 1.5)
        away = (math.cos(angle) * sheet.u + math.sin(angle) * (sheet.v - 0.4) - place) / rng.uniform(0.03, 0.12)
        shade += rng.uniform(0.08, 0.25) * away * np.exp(-np.square(away).clip(0, 50)) * 2
    result: Picture = shade.clip(0.4, 1.6)[..., None].astype(np.float32)
    return result
