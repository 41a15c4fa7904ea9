"""Pictures out of a request: one as it is, or several in a form."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from immunecam.errors import InputError
from immunecam.runtime.service.refusal import Refusal

__all__ = ["PICTURES_BODY", "read_pictures"]

_RAW = ("image/png", "image/jpeg", "image/webp", "image/bmp", "application/octet-stream")
_FORM = "multipart/form-data"
_CURLS = "application/x-www-form-urlencoded"  # which curl calls whatever it is given by --data-binary
_BINARY = {"type": "string", "format": "binary"}

PICTURES_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            **{kind: {"schema": _BINARY} for kind in _RAW},
            _FORM: {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "properties": {"image": {"type": "array", "minItems": 1, "items": _BINARY}},
                }
            },
        },
    }
}
"""The body in OpenAPI's words."""


async def read_pictures(request: Request, most: int) -> list[tuple[str, bytes]]:
    """Name and content of each picture of a request.

    Parameters
    ----------
    request : Request
        Its body is one picture, or a form whose every field is the file of one.
    most : int
        Pictures that there may be.

    Raises
    ------
    InputError
        If there is none, or the form is malformed.
    Refusal
        Status 413 for too many, 415 for another type of body.
    """
    kind = request.headers.get("content-type", "application/octet-stream").partition(";")[0].strip().lower()
    body = await request.body()
    if kind in (*_RAW, _CURLS):
        if not body:
            raise InputError("the request has no body: send a picture")
        return [("the picture", body)]
    if kind != _FORM:
        raise Refusal(415, f"the content-type is {kind[:60]!r}, but it must be {', '.join(_RAW)} or {_FORM}")
    pictures = await _form(request, body, most)
    if not pictures:
        raise InputError("the form has no picture: send each as the file of a field 'image'")
    return pictures


async def _form(request: Request, body: bytes, most: int) -> list[tuple[str, bytes]]:
    _, options = parse_options_header(request.headers["content-type"])
    boundary = options.get(b"boundary", b"")
    if not boundary:
        raise InputError("the form is malformed (its content-type has no boundary): send files only")
    if not body.rstrip().endswith(b"--" + boundary + b"--"):  # the parser would lose its last picture without a word
        raise InputError("the form is cut short: it must end with its boundary and two dashes")
    try:
        form = await request.form(max_files=most, max_fields=1)
    except HTTPException as error:
        if "Too many files" in str(error.detail):
            raise Refusal(413, f"the form has more than {most} pictures: send fewer at once") from None
        raise InputError(f"the form is malformed ({str(error.detail).rstrip('.')}): send files only") from None
    except (
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
    ) as error:  # of the parser, for heads that it did not foresee
        raise InputError(f"the form is malformed ({type(error).__name__}): send files only") from None
    try:
        pictures = []
        for field, value in form.multi_items():
            if not isinstance(value, UploadFile):
                raise InputError(f"the form's field {field[:40]!r} is no file: send pictures as files with names")
            pictures.append((f"the picture {str(value.filename)[:60]!r}", await value.read()))
    finally:
        await form.close()
    return pictures
