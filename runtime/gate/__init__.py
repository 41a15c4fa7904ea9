"""The access gate: enrolment, verification, identification, and the audit trail of its decisions.

>>> from immunecam.runtime.gate.access_gate import AccessGate
>>> from immunecam.runtime.gate.keys import GateKey
>>> with AccessGate.open("door.gate", GateKey.from_file("door.key"), "recogniser.toml") as gate:
...     for event in gate.watch(frame.image for frame in FrameSource.open("0")):
...         if event.granted:
...             open_the_door(event.person)

One concept a module: `recognizer` and `embedder` (any ONNX model), `store` (templates at rest) and `keys`, `matcher`,
`quality`, `track`, `evidence`, `calibration`, `enrolment`, `decision`, `access_gate` (what ties them together),
`audit_log` and `audit_verify`.
"""
