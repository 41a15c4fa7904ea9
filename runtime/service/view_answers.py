"""What the live page is told; the OpenAPI description is made of it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from immunecam.runtime.service.answers import CameraAnswer

__all__ = ["RatesAnswer", "SaidAnswer", "SeenAnswer", "SeenFaceAnswer", "StateAnswer", "ViewAnswer", "ViewGateAnswer"]


class RatesAnswer(BaseModel):
    """Error rates of the gate at the thresholds -1, -0.99 ... 1, as its calibration measured them."""

    fmr: list[float] = Field(description="Share of different people's comparisons that reach the threshold.")
    fnmr: list[float] = Field(description="Share of one person's comparisons that do not.")
    comparisons: int = Field(description="Of different people.")
    independent: int = Field(description="Of these, independent ones: two people count once.")
    genuine: int = Field(description="Comparisons of one person.")


class ViewGateAnswer(BaseModel):
    """The gate as it is set; the page changes nothing of it."""

    recognizer: str
    people: int
    min_frames: int
    threshold: float | None = Field(description="Score to accept from; null where there is none yet.")
    by_hand: bool = Field(description="Whether the threshold was given when the service was started.")
    rates: RatesAnswer | None = Field(
        description="Null where the gate is not calibrated, or was before rates were kept."
    )


class ViewAnswer(BaseModel):
    """What does not change from frame to frame."""

    version: str
    bundle: str
    k: int
    provider: str
    mutation: str = Field(description="Of the service, for requests and the gate.")
    modes: list[str] = Field(description="Mutation modes that can be looked at.")
    gain: int = Field(description="How many times stronger the noise is shown than it was.")
    gate: ViewGateAnswer | None


class SeenFaceAnswer(BaseModel):
    """A face in the picture."""

    box: list[float] = Field(description="Left, top, width, height in pixels of the camera's frame.")
    active: float | None = Field(description="Active eigenfaces; null without purification.")
    probabilities: list[float] = Field(description="Means of as many runs of following eigenfaces, the leading first.")


class SeenAnswer(BaseModel):
    """The frame whose pictures are beside this."""

    number: int
    camera: str
    width: int
    height: int
    faces: list[SeenFaceAnswer]
    timings_ms: dict[str, float] = Field(description='By stage; "picture" is what only the page costs.')
    latency_ms: float = Field(description="Their sum without that.")


class SaidAnswer(BaseModel):
    """What the gate said, or would say."""

    event: Literal["granted", "denied", "no-face", "low-quality", "suspected-attack"]
    mode: str
    candidate: str | None = Field(description="Who is nearest, let in or not.")
    score: float | None
    threshold: float | None
    reasons: list[str]
    used: int
    seq: int | None = Field(description="Number in the audit trail; null for a preview, which is not in it.")
    age_s: float = Field(description="Seconds since.")


class StateAnswer(BaseModel):
    """How things are now; the first part of every answer."""

    cameras: list[CameraAnswer]
    frame: SeenAnswer | None = Field(description="Null where the camera gave no new frame.")
    preview: SaidAnswer | None = Field(description="What the gate would say of the largest face. No decision.")
    decision: SaidAnswer | None = Field(description="The last decision that a client asked for.")
