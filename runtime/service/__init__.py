"""The local service: the purifier and the gate for programs that speak HTTP, in one process with one engine.

>>> from immunecam.runtime.service.server import serve  # needs the extra [serve]
>>> serve(ServiceWork(ServiceSettings(port=8600), Purifier.load(), face_finder()), started=print)

One concept a module. What needs no package of the extra: `settings`, `refusal`, `batcher` (one engine, many requests),
`pixel_budget`, `rate`, `access` (tokens, hosts), `inference` (tensors of the Open Inference Protocol), `cameras`,
`purification` (from bytes to an answer), `view_picture` and `gate_preview` (what the live page shows). What does:
`metrics`, `live_view` (frames for all who look), `work` (what there is to answer with), `answers` and `view_answers`
(the JSON), `uploads`, `guard` (limits around every request), `connection` (limits below HTTP), `routes`,
`inference_routes`, `view_routes` (what the live page asks for), `page_routes` (its files, in `page/`), `app`, `server`.
"""
