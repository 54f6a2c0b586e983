"""The clock of the machine goes back after a key has expired, and the gateway starts again."""

from __future__ import annotations

import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from archwright.access.api_keys import KeyStore, load_pepper
from archwright.access.tables import SECRET_EXPIRIES

if TYPE_CHECKING:
    from ..conftest import Start

pytestmark = pytest.mark.enable_socket


def test_a_key_that_expired_while_no_request_came_is_refused_by_a_clock_that_went_back(start: Start) -> None:
    platform = start([{}], [{}])
    secret = platform.made_key("clinic", lives_s=0.3)
    with closing(platform.store) as store:
        platform.until(lambda: bool(store.rows(SECRET_EXPIRIES)))
        platform.master.terminate()
        later = KeyStore(store, load_pepper(platform.home, store), clock=lambda: time.time() - 3600)
        assert later.identify(secret) is None and later.identify(platform.key) is not None
