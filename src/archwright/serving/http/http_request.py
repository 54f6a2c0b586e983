"""Records of one HTTP request: the result of its authorisation, and the complete request that a handler gets."""

import msgspec

from archwright.access.api_keys import Principal
from archwright.engines.http_request_parser import RequestHead


class Admitted(msgspec.Struct, frozen=True, gc=False):
    """A request that may be handled. `principal` is None for an open route.

    `keys_version`: version of the key store before the key was looked up, so that later revocations are noticed.
    `images`: image data may exceed the limit of the body. `counted`: the rates of the caller have counted the request.
    `source`: IP address of the client. `upload`: the body is a form with a file.
    `background`: a line of a batch, which comes after every other request.
    """

    principal: Principal | None
    keys_version: int
    images: bool = False
    counted: bool = False
    source: str = ""
    upload: bool = False
    background: bool = False


class HttpRequest(msgspec.Struct, frozen=True, gc=False):
    """A complete, authorised request. `received_at`: when its headers were complete (monotonic clock)."""

    id: str
    head: RequestHead
    received_at: float
    admitted: Admitted
    body: bytes

    @property
    def principal(self) -> Principal:
        principal = self.admitted.principal
        assert principal is not None, "a handler of an open route asked for the principal"
        return principal

    def header(self, name: bytes) -> str | None:
        value = self.head.headers.get(name)
        return None if value is None else value.decode("latin-1")
