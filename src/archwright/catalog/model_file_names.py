"""Resolves MODEL, MODEL:QUANTISATION or the name of a stored file to a file for the embedded engine."""

from collections.abc import Mapping, Sequence

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.name_resolution import unknown_name_error
from archwright.contract.plan import Artefact
from archwright.errors import CatalogError

DEFAULT_QUANTISATION = "Q4_K_M"


def find_model_file(name: str, catalog: Catalog) -> Artefact:
    """Return the file that MODEL, MODEL:QUANTISATION or the name of a stored file means.

    Without a quantisation: the file in the home or the wheel, else Q4_K_M or what the hub lists. A quantisation that no
    repository lists gets a computed size. Raises CatalogError AW-CAT-01.
    """
    files = _list_gguf_files(catalog)
    if name in files:
        return files[name]
    stem, colon, quantisation = name.partition(":")
    model = _resolve_model(stem, files, catalog)
    files_by_quantisation: dict[str, Artefact] = {}
    for file in files.values():
        if file.model == model:
            files_by_quantisation.setdefault(file.quantisation, file)
    if not colon:
        quantisation = _choose_quantisation(files_by_quantisation)
    quantisation = _resolve_quantisation(quantisation, catalog.embedded_engine.quantisations)
    return files_by_quantisation.get(quantisation) or catalog.compute_model_file(model, quantisation)


def _resolve_model(name: str, files: Mapping[str, Artefact], catalog: Catalog) -> str:
    """Return the id of the model that a name or a file means. Raises CatalogError AW-CAT-01."""
    if name in files:
        return files[name].model
    try:
        return catalog.model(name).id
    except CatalogError as error:
        raise unknown_name_error("model", name, {*catalog.models, *files}) from error


def _list_gguf_files(catalog: Catalog) -> dict[str, Artefact]:
    """Return the files of known models in the embedded engine's form by name."""
    files = dict[str, Artefact]()
    for listed_files in catalog.model_files.values():
        for file in listed_files:
            if file.form == "gguf" and file.model in catalog.models:
                files[file.name] = file
    return files


def _choose_quantisation(files: Mapping[str, Artefact]) -> str:
    """Return that of the file that is here, else the default, else the first of the hub."""
    for quantisation, file in files.items():
        if file.sha256:
            return quantisation
    if not files or DEFAULT_QUANTISATION in files:
        return DEFAULT_QUANTISATION
    return next(iter(files))


def _resolve_quantisation(name: str, quantisations: Sequence[str]) -> str:
    """Return the spelling of the table. Raises CatalogError AW-CAT-01."""
    for quantisation in quantisations:
        if quantisation.lower() == name.lower():
            return quantisation
    raise unknown_name_error("quantisation", name, quantisations)
