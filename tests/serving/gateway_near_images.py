"""The gateway with two differences: `images.example.org` is on this machine, and its certificate is trusted."""

from __future__ import annotations

import ssl
import sys
from functools import partial
from pathlib import Path

from archwright.serving.__main__ import main
from archwright.serving.handlers import gateway_context
from archwright.serving.requests.image_fetch import ImageFetcher

CERTIFICATE = "images.pem"  # in the home


async def resolve_here(_host: str, _port: int) -> list[str]:
    return ["127.0.0.1"]


if __name__ == "__main__":
    tls = ssl.create_default_context(cafile=str(Path(sys.argv[1]) / CERTIFICATE))
    near = partial(ImageFetcher, resolve=resolve_here, is_permitted="127.0.0.1".__eq__, tls=tls)
    vars(gateway_context)["ImageFetcher"] = near
    sys.exit(main(sys.argv[1:]))
