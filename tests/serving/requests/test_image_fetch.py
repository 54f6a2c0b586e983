"""Images of a real host with TLS: what is taken, what is refused, and where the connection goes."""

from __future__ import annotations

import io
import json
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from tests.async_tests import run_async
from tests.serving.image_host import NAME, NO_IMAGE, NOT_SENT, PNG, REPLIES, TAKEN, TOO_LARGE, ImageHost, serving_images
from tests.serving.relay_stand import RelayStand
from tests.tools.checks import WAIT_S

from archwright.journal import Journal
from archwright.policy.image_hosts import ImageUrl
from archwright.serving.http.errors import ApiError
from archwright.serving.requests.image_fetch import IMAGE_BYTES, ImageFetcher, resolve_host
from archwright.serving.requests.multimodal import ImageReference

pytestmark = pytest.mark.enable_socket


@pytest.fixture(scope="module")
def host(processes: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ImageHost]:
    with serving_images(tmp_path_factory.mktemp("host")) as made:
        yield made


class Stand:
    """A fetcher whose resolver answers `addresses`; loopback is permitted."""

    def __init__(self, host: ImageHost, *addresses: str, timeout_s: float = WAIT_S) -> None:
        self.resolved: list[str] = []
        self.log = io.StringIO()
        self.holder: dict[str, Any] = {"url": "https://..."}
        self._host, self._addresses = host, addresses or ("127.0.0.1",)
        permitted = {"127.0.0.1"}
        self._fetcher = ImageFetcher(
            Journal("g", self.log), self._resolve, permitted.__contains__, host.context, timeout_s
        )
        self.peer = RelayStand()

    async def _resolve(self, host: str, port: int) -> list[str]:
        self.resolved.append(host)
        return list(self._addresses)

    async def fetch(self, path: str = "/x.png", host: str = NAME, port: int = 0) -> str:
        """Return the URL that replaces the image's."""
        image = ImageReference("at", ImageUrl("https", host, port or self._host.port, path), self.holder)
        await self._fetcher.insert_images([image], self.peer.response, "tenant")
        return str(self.holder["url"])

    async def refuse(self, *args: Any) -> str:
        with pytest.raises(ApiError) as caught:
            await self.fetch(*args)
        error = caught.value
        assert (error.status, error.openai_code, error.param) == (400, "image_not_fetched", "at")
        assert self.holder == {"url": "https://..."}
        return error.message


@run_async
async def test_images_are_taken_as_data(host: ImageHost) -> None:
    for path in TAKEN:
        kind, _, data = (await Stand(host).fetch(path)).partition(";base64,")
        assert kind.startswith("data:image/") and len(data) >= 12
    host.asked.clear()
    stand = Stand(host)
    assert (await stand.fetch("/x.png")).startswith("data:image/png;base64,iVBORw0KGgpwaXhlbH")
    assert stand.resolved == [NAME] and host.names[-1] == NAME
    assert host.asked == [
        f"GET /x.png HTTP/1.1\r\nHost: {NAME}:{host.port}\r\nUser-Agent: archwright\r\n"
        "Accept: image/png, image/jpeg, image/gif, image/webp\r\nAccept-Encoding: identity\r\nConnection: close\r\n\r\n"
    ]


@run_async
async def test_no_other_reply_is_taken(host: ImageHost) -> None:
    said = {await Stand(host).refuse(path) for path in NOT_SENT}
    assert said == {"'at': the image could not be fetched: the host did not send it. Send the image as base64 data."}
    for path in TOO_LARGE:
        assert "larger than 8 MiB" in await Stand(host).refuse(path)
    for path in NO_IMAGE:
        assert "its type is not one of" in await Stand(host).refuse(path)
    assert len(TAKEN + NOT_SENT + TOO_LARGE + NO_IMAGE) == len(REPLIES)


@run_async
async def test_a_slow_host_ends_in_time(host: ImageHost) -> None:
    for path in ("/stalls", "/drips"):
        assert "did not send it" in await Stand(host, timeout_s=0.3).refuse(path), "neither host ends its reply"


@run_async
async def test_one_address_inside_refuses_the_host(host: ImageHost) -> None:
    """The error does not tell this from a closed port, an unknown name or a wrong certificate; the log does."""
    host.asked.clear()
    closed = socket.create_server(("127.0.0.1", 0))
    free = closed.getsockname()[1]
    closed.close()
    inside, nothing, unknown = Stand(host, "127.0.0.1", "10.0.0.1"), Stand(host), Stand(host)
    said = {await inside.refuse(), await nothing.refuse("/x.png", NAME, free)}
    said.add(await unknown.refuse("/x.png", "other.example.org"))
    assert len(said) == 1 and host.asked == []
    reasons = [json.loads(stand.log.getvalue())["reason"] for stand in (inside, nothing, unknown)]
    assert reasons == ["PermissionError", "ConnectionRefusedError", "SSLCertVerificationError"]


@run_async
async def test_the_first_resolution_is_the_only_one(host: ImageHost) -> None:
    """A name that changes to an address inside after the check leads nowhere else."""

    class Rebinding(Stand):
        async def _resolve(self, host: str, port: int) -> list[str]:
            found = ["127.0.0.1"] if not self.resolved else ["10.0.0.1"]
            self.resolved.append(host)
            return found

    stand = Rebinding(host)
    assert (await stand.fetch()).startswith("data:image/png")
    assert stand.resolved == [NAME]


@run_async
async def test_the_system_resolves_and_the_default_policy_refuses(host: ImageHost) -> None:
    assert "127.0.0.1" in await resolve_host("localhost", 443)
    fetcher, holder = ImageFetcher(Journal("g", io.StringIO()), tls=host.context), {"url": "x"}
    image = ImageReference("at", ImageUrl("https", "localhost", host.port, "/x.png"), holder)
    host.asked.clear()
    with pytest.raises(ApiError, match="did not send it"):
        await fetcher.insert_images([image], RelayStand().response, "tenant")
    assert host.asked == [] and holder == {"url": "x"}


@run_async
async def test_bytes_are_counted_while_and_after_they_are_fetched(host: ImageHost) -> None:
    stand = Stand(host)
    size = len((await stand.fetch()).removeprefix("data:image/png;base64,"))
    assert size > len(PNG) and stand.peer.peer.held == [IMAGE_BYTES, size - IMAGE_BYTES]
    stand.peer.peer.held.clear()
    with suppress(ApiError):
        await stand.fetch("/missing")
    assert stand.peer.peer.held == [IMAGE_BYTES]  # until the request ends
