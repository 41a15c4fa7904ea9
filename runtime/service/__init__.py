"""The local service: the purifier and the gate for programs that speak HTTP, in one process with one engine.

>>> from immunecam.runtime.service.server import serve      # needs the extra [serve]
>>> serve(ServiceSettings(port=8600), purifier)

One concept a module. What needs no web framework: `settings`, `refusal`, `batcher` (one engine, many requests), `rate`,
`access` (tokens, hosts), `inference` (tensors of the Open Inference Protocol), `cameras`, `purification` (from bytes to
an answer). What does: `metrics`, `answers` (what JSON looks like), `uploads`, `guard` (limits around every request),
`connection` (limits below HTTP), `routes`, `inference_routes`, `app`, `server`. A live page joins `app` as one more
router; the camera's picture is at ``/v1/cameras/active/picture``.
"""
