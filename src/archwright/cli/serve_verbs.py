"""The verb that serves without a plan."""

from __future__ import annotations

from archwright.cli.grammar import Arg, Verb

SERVE = Verb(
    ("serve",),
    "serve",
    "the gateway alone, in front of engines that are already there",
    (
        Arg(
            "upstream",
            "a model and the URL that answers it; again for more",
            "texts",
            of="options",
            metavar="M=URL",
        ),
        Arg("port", "where it listens, 0 for any free port", "integer", of="options"),
        Arg("workers", "processes that share the work", "integer", default=1, of="options"),
        Arg("price", "USD per million tokens, in and out", "texts", of="options", metavar="MODEL=IN:OUT"),
        Arg("key_env", "the variable that holds the upstream's own key", "texts", of="options", metavar="MODEL=NAME"),
        Arg("host", "address to listen on; other than loopback needs TLS", of="options"),
        Arg("cache", "answers given again: off, deterministic or all", default="off", of="options"),
        Arg("admin_port", "where the administration interface listens", "integer", of="options"),
    ),
    "show_serve.serving",
)
