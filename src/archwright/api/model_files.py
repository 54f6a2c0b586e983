"""The model files of the catalog and which of them are in the home."""

from typing import Literal

from archwright.catalog.load import load_catalog
from archwright.contract.record import Record
from archwright.home import Home


class ModelFile(Record):
    """A model artefact of the catalog; `here`: its file is in the home."""

    id: str
    kind: Literal["file"] = "file"
    model: str
    quantisation: str
    size_bytes: int
    licence: str
    sha256: str
    here: bool
    path: str | None


def list_model_files(home: Home) -> tuple[ModelFile, ...]:
    """Return every model file of the catalog, by the model's name."""
    found = []
    for model, artefact in sorted(load_catalog(home).artefacts.items()):
        path = home.model(artefact.sha256)
        here = path.is_file()
        same = {name: getattr(artefact, name) for name in ("quantisation", "size_bytes", "licence", "sha256")}
        found.append(ModelFile(id=artefact.name, model=model, here=here, path=str(path) if here else None, **same))
    return tuple(found)
