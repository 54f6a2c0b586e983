"""Ask an upstream for its models and its context: at the start and then regularly, never for a request."""

import asyncio
from contextlib import suppress
from http import HTTPStatus
from typing import Any

from archwright.errors import EngineError
from archwright.http_client.client import EngineClient, EngineRefused
from archwright.serving.http.engine_refusals import describe_upstream_problem
from archwright.serving.routing.replica import Replica
from archwright.serving.settings.config import EnginePoolSpec

INSPECTION_TIMEOUT_S = 3.0
SHOWN_MODELS = 5
CONTEXT_FIELDS = ("max_model_len", "context_length", "context_window")


async def inspect_replica(replica: Replica, spec: EnginePoolSpec) -> None:
    """Set the context and the problem of an engine; both stay as they are if it gives no clear answer."""
    name = replica.client.model_override.get("model", spec.model)
    try:
        async with asyncio.timeout(INSPECTION_TIMEOUT_S):
            listed = (await replica.client.get("/models")).get("data")
            models = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
            found = next((one for one in models if _means(str(one.get("id")), name)), None)
            if found is None and len(models) == 1 and "meta" in models[0]:
                found = models[0]  # llama.cpp serves its model under any name
            replica.learn_context(0 if found is None else await _find_context(replica.client, found))
    except EngineRefused as error:
        if error.status < HTTPStatus.INTERNAL_SERVER_ERROR:
            replica.set_listed_problem("" if error.status == HTTPStatus.NOT_FOUND else describe_upstream_problem(error))
    except EngineError as error:
        replica.set_listed_problem("it cannot be reached" if error.code == "AW-ENG-01" else "")
    except (OSError, UnicodeError):  # late, as a busy engine may be
        return
    else:
        # Anthropic lists a part of its models, and no aliases; a provider with deployments lists only base models.
        lists_names = spec.protocol != "anthropic" and spec.key_header == "authorization"
        is_missing = models and found is None and lists_names
        others = ", ".join(str(one.get("id"))[:80] for one in models[:SHOWN_MODELS])
        replica.set_listed_problem(f"it lists no model named {name!r}, but {others}" if is_missing else "")


def _means(listed: str, name: str) -> bool:
    """True if a listed name may mean `name`: providers add a prefix such as "models/", and a tag such as ":latest"."""
    listed, name = listed.partition(":")[0], name.partition(":")[0]
    return listed == name or listed.endswith(f"/{name}")


async def _find_context(client: EngineClient, model: dict[str, Any]) -> int:
    figures = [model.get(name) for name in CONTEXT_FIELDS]
    if "meta" in model:  # it has the model's figure; llama.cpp's properties have the server's
        with suppress(EngineError, AttributeError):
            figures.append((await client.get("/props")).get("default_generation_settings", {}).get("n_ctx"))
    return next((figure for figure in figures if type(figure) is int and figure > 0), 0)
