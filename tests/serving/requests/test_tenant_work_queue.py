"""Places for costly work: tenants take turns, and nothing is lost when a client leaves."""

from __future__ import annotations

import asyncio

from tests.async_tests import run_async

from archwright.serving.requests.tenant_work_queue import TenantWorkQueue


class Workshop:
    """Work that runs until `finish` names it; `order` lists the work as it began."""

    def __init__(self, places: int) -> None:
        self.queue = TenantWorkQueue(places)
        self.order: list[str] = []
        self._ends: dict[str, asyncio.Event] = {}

    def start(self, name: str) -> asyncio.Task[None]:
        """Start work; the first letter of the name is its tenant."""
        self._ends[name] = asyncio.Event()
        return asyncio.create_task(self._work(name))

    async def finish(self, *names: str) -> None:
        for name in names:
            self._ends[name].set()
            await settle()

    async def _work(self, name: str) -> None:
        async with self.queue.hold_place(name[0]):
            self.order.append(name)
            await self._ends[name].wait()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@run_async
async def test_tenants_take_turns_and_each_in_order_of_arrival() -> None:
    shop = Workshop(1)
    tasks = [shop.start(name) for name in ("a1", "a2", "a3", "a4", "b1", "b2", "c1")]
    await settle()
    assert shop.queue.waiting == 6
    await shop.finish("a1", "b1", "a2", "c1", "b2", "a3", "a4")
    await asyncio.gather(*tasks)
    assert shop.order == ["a1", "b1", "a2", "c1", "b2", "a3", "a4"], "a1 ran when the others came"


@run_async
async def test_with_several_places_the_tenant_with_the_fewest_is_next() -> None:
    shop = Workshop(2)
    tasks = [shop.start(name) for name in ("a1", "a2", "a3", "a4", "b1", "b2")]
    await settle()
    await shop.finish("a1")
    assert shop.order == ["a1", "a2", "b1"], "a still holds a place"
    await shop.finish("a2")
    assert shop.order[3] in ("a3", "b2")
    await shop.finish("b1", "a3", "b2", "a4")
    await asyncio.gather(*tasks)


@run_async
async def test_work_whose_client_left_frees_its_place_and_its_wait() -> None:
    """Also if the place was given in the moment in which the client left."""
    shop = Workshop(1)
    first, second, third = (shop.start(name) for name in ("a1", "b1", "c1"))
    await settle()
    second.cancel()
    await settle()
    assert shop.queue.waiting == 1
    shop.start("d1")
    await settle()
    shop._ends["a1"].set()
    await asyncio.sleep(0)  # a1 ends
    third.cancel()
    await settle()
    assert shop.order == ["a1", "d1"] and shop.queue.waiting == 0
    await shop.finish("d1")
    assert not shop.queue.is_busy and first.done()
