"""What the service's JSON looks like; the OpenAPI description is made of it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

__all__ = [
    "BundleAnswer",
    "CameraAnswer",
    "CameraChoice",
    "CamerasAnswer",
    "DecisionAnswer",
    "ErrorAnswer",
    "FaceAnswer",
    "HealthAnswer",
    "PictureAnswer",
    "PurifyAnswer",
]


class ErrorAnswer(BaseModel):
    """Why a request was refused."""

    error: str = Field(description="One sentence: what is wrong, what was found, what to do.")


class HealthAnswer(BaseModel):
    """How the service is."""

    status: str


class FaceAnswer(BaseModel):
    """A purified face."""

    box: list[float] = Field(description="Left, top, width, height in pixels of the picture.")
    landmarks: list[list[float]] = Field(description="Five points: eyes, nose, corners of the mouth, left to right.")
    score: float = Field(description="Confidence of the finder, 0 to 1.")
    number: int = Field(description="The purifier's running number of the face.")
    active: float = Field(description="Active eigenfaces of the antibody.")
    residual: float | None = Field(None, description="Share of the energy outside the antibody's subspace.")
    cosine: float | None = Field(None, description="Between the embeddings before and after; with a recogniser.")
    embedding: list[float] | None = Field(None, description="Of the purified face, of unit length.")
    purified: str | None = Field(None, description="The purified face, 112x112 grey, a PNG in base64.")


class PictureAnswer(BaseModel):
    """A picture and its faces, the largest first."""

    name: str
    width: int
    height: int
    faces: list[FaceAnswer]
    picture: str | None = Field(None, description="With the purified faces in place, in base64.")
    timings_ms: dict[str, float] = Field(description="By stage; the engine's are of the batch that the faces were in.")


class PurifyAnswer(BaseModel):
    """Pictures in the order in which they were sent."""

    pictures: list[PictureAnswer]
    provider: str
    mutation: str
    bundle_sha256: str


class DecisionAnswer(BaseModel):
    """A decision of the gate, as it stands in its audit trail. Open for `granted` only."""

    event: Literal["granted", "denied", "no-face", "low-quality", "suspected-attack"]
    mode: str
    person: str | None
    claimed: str | None
    candidate: str | None
    score: float | None
    threshold: float | None
    frames: int
    used: int
    reasons: list[str]
    residual: float | None
    cosine: float | None
    active: float | None
    liveness: float | None
    liveness_threshold: float | None
    latency_ms: float
    seq: int


class CameraAnswer(BaseModel):
    """A camera."""

    name: str
    address: str
    active: bool
    status: dict[str, Any] | None = Field(description="Of the active one, else null.")


class CamerasAnswer(BaseModel):
    """All cameras, and which is open."""

    active: str | None
    cameras: list[CameraAnswer]


class CameraChoice(BaseModel):
    """The camera to open."""

    name: str = Field(max_length=64)


class BundleAnswer(BaseModel):
    """The model in use."""

    name: str
    version: int
    kind: str
    k: int
    sha256: str
    signed_by: str | None
    precision: dict[str, str]
    provider: str
    mutation: str
