"""How many requests are let in, by the pace of answers."""

from __future__ import annotations

import asyncio

import pytest

from immunecam.runtime.faces import face_finder
from immunecam.runtime.purifier import Purifier
from immunecam.runtime.service.refusal import Overloaded
from immunecam.runtime.service.settings import ServiceSettings
from immunecam.runtime.service.work import ServiceWork


@pytest.fixture
def work():
    made = []

    def make(**settings):
        made.append(ServiceWork(ServiceSettings(**settings), Purifier.load(threads=1), face_finder()))
        return made[-1]

    yield make
    for one in made:
        one.close()


async def crowd(work, count):
    """The refusals of so many requests at once, all of which stay until the last has come."""
    all_came = asyncio.Event()

    async def request():
        async with work.admitted():
            await all_came.wait()

    requests = [asyncio.ensure_future(request()) for _ in range(count)]
    await asyncio.sleep(0)
    all_came.set()
    return [one for one in await asyncio.gather(*requests, return_exceptions=True) if one is not None]


def test_who_would_not_be_answered_in_time_is_told_at_once(work):
    """Before any answer the service takes them for ten a second; half of the time may be spent waiting."""
    slow = work(request_timeout_s=4.0)
    refused = asyncio.run(crowd(slow, 40))
    assert len(refused) == 40 - 21
    assert {type(one) for one in refused} == {Overloaded}
    assert {one.retry_after_s for one in refused} == {3}
    assert "21 requests are in work or wait already, of 128 that may: try again in 3 s" in str(refused[0])
    assert asyncio.run(crowd(work(request_timeout_s=30.0), 40)) == []


def test_a_few_are_let_in_however_slow_it_was(work):
    slow = work(request_timeout_s=0.1)
    assert asyncio.run(crowd(slow, slow._places)) == []
    assert len(asyncio.run(crowd(slow, slow._places + 3))) == 3
