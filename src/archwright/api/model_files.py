"""The model files of the home and of the catalog, and the names that `models fetch` takes."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from archwright.catalog.catalog import Catalog
from archwright.catalog.load import load_catalog
from archwright.catalog.probe.host_resources import list_accelerators
from archwright.catalog.tables import parsers
from archwright.catalog.tables.csv_table import DATA
from archwright.contract.record import Record, replace
from archwright.contract.stored_model import CommercialUse, StoredModel, find_commercial_use
from archwright.engines import model_store
from archwright.engines.model_store import FetchedModel, KnownModel, StoreOptions
from archwright.engines.pickles import PICKLE_SUFFIXES, refuse_pickle
from archwright.errors import ErrorLocation, ModelError, argument_error
from archwright.home import Home
from archwright.lifecycle import model_registry
from archwright.operate.loaded_models import read_aliases
from archwright.store import Store


class ModelFile(Record):
    """A model of the home, or a wheel of the catalog; `here`: its files are in the home.

    `notes`: what its user should know, such as a licence that forbids commercial use.
    """

    id: str
    kind: Literal["file"] = "file"
    model: str
    quantisation: str
    size_bytes: int
    licence: str
    sha256: str
    here: bool
    path: str | None
    source: str = ""
    task: str = "generate"
    parameters: int = 0
    context_tokens: int = 0
    commercial_use: CommercialUse = "conditional"
    notes: tuple[str, ...] = ()


def show_stored(stored: StoredModel, home: Home, notes: Sequence[str] = ()) -> ModelFile:
    use, licence = find_commercial_use(stored.licence), stored.licence
    about = [f"the licence {licence} forbids commercial use"] if use == "no" else []
    about += ["the licence is not known: read the model's page before business use"] if not licence else []
    same = ("model", "quantisation", "size_bytes", "licence", "sha256", "source", "task")
    return ModelFile(
        id=stored.name,
        here=True,
        path=str(model_store.locate_stored_model(stored, home)),
        parameters=stored.architecture.parameters,
        context_tokens=stored.architecture.context_tokens,
        commercial_use=use,
        notes=(*about, *notes),
        **{name: getattr(stored, name) for name in same},
    )


def list_fetch_notes(fetched: FetchedModel, catalog: Catalog) -> list[str]:
    """Say which quantisation was chosen of several, and that a file is not the model of its row in the catalog."""
    stored, notes = fetched.stored, []
    reference = stored.source.partition("@")[0]
    if len(fetched.choices) > 1:
        choices = ", ".join(fetched.choices)
        notes.append(f"{stored.quantisation} was chosen of {choices}; to choose: {reference}:QUANTISATION")
    for row in catalog.hub_models.values():
        if reference == f"hf:{row.gguf_repository}" and stored.model != row.model:
            notes.append(f"the file has other dimensions than {row.model} of the catalog")
    return notes


def list_model_files(home: Home) -> tuple[ModelFile, ...]:
    """Return the models of the home by name, then each wheel of the catalog that has no record there."""
    stored = model_store.list_stored_models(home)
    found = [show_stored(one, home) for one in stored]
    for model, artefact in sorted(load_catalog(home).artefacts.items()):
        if artefact.sha256 in {one.sha256 for one in stored}:
            continue
        path = home.model(artefact.sha256)
        here = path.is_file()
        same = {name: getattr(artefact, name) for name in ("quantisation", "size_bytes", "licence", "sha256")}
        same |= {"commercial_use": find_commercial_use(artefact.licence)}
        same |= {"source": f"wheel {artefact.package}=={artefact.version}", "path": str(path) if here else None}
        found.append(ModelFile(id=artefact.name, model=model, here=here, **same))
    return tuple(found)


def store_options() -> StoreOptions:
    """Return the facts of the catalog, and of the accelerators of this machine, that the store needs."""
    catalog = load_catalog()  # without the models of the home
    known = []
    for spec in catalog.models.values():
        one = KnownModel(id=spec.id, layers=spec.layers, hidden=spec.hidden, licence=spec.licence)
        if (row := catalog.hub_models.get(spec.id)) is not None:
            repositories = (row.repository, row.gguf_repository)
            one = replace(one, repositories=repositories, template_tokens=row.template_tokens)
        known.append(one)
    return StoreOptions(known=tuple(known), accelerator=bool(list_accelerators(parsers.read_device_tools(DATA))))


def find_reference(name: str, catalog: Catalog) -> str:
    """Return the hub reference of a model: `hf:...`, `NAME`, `NAME:QUANTISATION` or `NAME-QUANTISATION`."""
    if name.startswith("hf:"):
        return name
    if Path(name).suffix.lower() in PICKLE_SUFFIXES:
        refuse_pickle(Path(name))
    model, _, choice = name.partition(":")
    for row in catalog.hub_models.values():
        listed = [one for one in row.quantisations if name == f"{row.model}-{one}"]
        if row.model == model or listed:
            chosen = listed[0] if listed else choice
            return f"hf:{row.gguf_repository}" + (f":{chosen}" if chosen else "")
    names = sorted({*catalog.artefacts, *catalog.hub_models})
    near = tuple(difflib.get_close_matches(name, names, 3, 0.3))
    hint = f"use hf:ORG/REPO, or one of {', '.join(names)}"
    raise argument_error("AW-USE-03", f"the catalog has no model file called {name[:60]!r}", "name", hint, near)


def find_stored(name: str, home: Home, *, lost: bool = False) -> StoredModel:
    """Return a model of the home (see `find_stored_model`); a wheel's file of an earlier version gets its record."""
    for row in load_catalog(home).artefacts.values():
        path = home.model(row.sha256)
        named = name in (row.name, row.model, row.sha256) and not home.model_record(row.sha256).exists()
        if named and path.is_file() and path.stat().st_size == row.size_bytes:
            model_store.store_wheel(row, home)
    return model_store.find_stored_model(home, name, lost=lost)


def check_unused(stored: StoredModel, home: Home, store: Store) -> None:
    """Raise ModelError AW-MOD-06 if the plan, an alias, or a version trained on it needs the model."""
    users = [
        f"{one.id} was trained on it" for one in model_registry.list_models(store) if one.base_sha256 == stored.sha256
    ]
    if home.plan.is_file() and stored.sha256 in home.plan.read_text(encoding="utf-8"):
        users.insert(0, "the plan of this home serves it")
    loaded = (change for change in read_aliases(store).values() if change.model == stored.name)
    users += [f"it is loaded as {change.alias}" for change in loaded]
    if users:
        hint = f"start another plan (archwright up PLAN), or unload it: archwright models unload {stored.name}"
        where = ErrorLocation(field=stored.name)
        raise ModelError("AW-MOD-06", f"{stored.name} is in use: {users[0]}", where=where, hint=hint)
