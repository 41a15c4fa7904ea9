"""Pictures that are in memory together: as many as fit, in the order in which they came."""

from __future__ import annotations

import asyncio

import pytest

from immunecam.runtime.service.pixel_budget import PixelBudget
from immunecam.runtime.service.refusal import Overloaded


def test_what_fits_goes_in_and_the_rest_waits_its_turn():
    async def run():
        budget, inside, seen = PixelBudget(10, 5, 60), set(), []

        async def hold(name, pixels, leave):
            async with budget.taken(pixels):
                inside.add(name)
                seen.append(name)
                await leave.wait()
            inside.discard(name)

        leaves = {name: asyncio.Event() for name in "abcd"}
        tasks = [asyncio.create_task(hold(n, p, leaves[n])) for n, p in (("a", 6), ("b", 4), ("c", 5), ("d", 1))]
        await asyncio.sleep(0.01)
        assert inside == {"a", "b"}
        leaves["b"].set()
        await asyncio.sleep(0.01)
        assert inside == {"a"}  # d would fit, but c came first
        leaves["a"].set()
        await asyncio.sleep(0.01)
        assert inside == {"c", "d"}
        leaves["c"].set()
        leaves["d"].set()
        await asyncio.gather(*tasks)
        assert seen == list("abcd")

    asyncio.run(run())


def test_who_left_takes_no_room():
    async def run():
        budget = PixelBudget(10, 5, 60)
        entered = []

        async def hold(name, pixels, seconds=0.0):
            async with budget.taken(pixels):
                entered.append(name)
                await asyncio.sleep(seconds)

        first = asyncio.create_task(hold("first", 10, 60))
        waiting = asyncio.create_task(hold("waiting", 10))
        last = asyncio.create_task(hold("last", 99))  # more than there is: alone
        await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait_for(last, 5)
        assert entered == ["first", "last"]
        await asyncio.wait_for(hold("again", 10), 5)

    asyncio.run(run())


def test_places_are_bounded_too_and_nobody_waits_for_ever():
    async def run():
        budget = PixelBudget(10, 2, 0.05)

        async def hold(leave):
            async with budget.taken(1):
                await leave.wait()

        leave = asyncio.Event()
        tasks = [asyncio.create_task(hold(leave)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match=r"in work for 0.05 s: try again in 1 s"):
            await hold(leave)
        leave.set()
        await asyncio.gather(*tasks)
        await hold(leave)

    asyncio.run(run())


def test_let_in_and_cancelled_in_one_moment_gives_the_room_back():
    async def run():
        budget = PixelBudget(10, 5, 60)
        leave = asyncio.Event()

        async def hold(wait):
            async with budget.taken(10):
                if wait:
                    await leave.wait()

        first = asyncio.create_task(hold(True))
        await asyncio.sleep(0.01)
        second = asyncio.create_task(hold(False))
        await asyncio.sleep(0.01)
        leave.set()
        await first
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        await asyncio.wait_for(hold(False), 5)

    asyncio.run(run())
