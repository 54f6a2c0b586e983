"""Model files: `models fetch`, `models list`."""

from __future__ import annotations

import difflib

from archwright import settings
from archwright.api.context import audited, home_of, opened
from archwright.catalog.load import load
from archwright.contract.record import Record
from archwright.engines import artefacts
from archwright.errors import UsageError


class ModelFile(Record):
    """A model artefact and whether it is in the home."""

    id: str
    model: str
    quantisation: str
    size_bytes: int
    licence: str
    sha256: str
    here: bool
    path: str | None


def fetch(name: str) -> ModelFile:
    """Bring a model's file into the home under its digest; done at once when it is there already."""
    home = home_of(settings.load())
    known = load(home).artefacts
    if name not in known:
        near = tuple(difflib.get_close_matches(name, known, 3, 0.3))
        raise UsageError(
            "AW-USE-03", f"no model file called {name!r}", hint=f"known: {', '.join(sorted(known))}", nearest=near
        )
    here = home.model(known[name].sha256).is_file()
    artefacts.fetch(known[name], home)
    if not here:
        with opened() as (_settings, _home, store):
            audited(store, "models.fetch", known[name].sha256)
    return next(model for model in list() if model.model == name)


def list() -> tuple[ModelFile, ...]:  # noqa: A001 - the verb's name
    """Every model file the catalog knows."""
    home = home_of(settings.load())
    found = []
    for model, artefact in sorted(load(home).artefacts.items()):
        path = home.model(artefact.sha256)
        found.append(
            ModelFile(
                id=artefact.name,
                model=model,
                quantisation=artefact.quantisation,
                size_bytes=artefact.size_bytes,
                licence=artefact.licence,
                sha256=artefact.sha256,
                here=path.is_file(),
                path=str(path) if path.is_file() else None,
            )
        )
    return tuple(found)
