"""Modules of optional packages, each imported when one of its attributes is read.

The packages are large, so commands that do not need them start without them.
"""

import sys
from importlib import import_module
from typing import Any

from archwright.errors import missing_extra


class LazyModule:
    """The module `name`, which `extra` installs for a `purpose`."""

    def __init__(self, name: str, extra: str, purpose: str) -> None:
        self._name, self._extra, self._purpose = name, extra, purpose

    def __getattr__(self, attribute: str) -> Any:
        """Raises MissingError AW-GET-01."""
        if (loaded := sys.modules.get(self._name)) is not None:  # import_module takes a microsecond more
            return getattr(loaded, attribute)
        try:
            module = import_module(self._name)
        except ModuleNotFoundError as error:
            raise missing_extra(self._extra, str(error.name), self._purpose) from error
        return getattr(module, attribute)


DATA, TRAINING = ("lake", "reading and writing data"), ("train", "training or evaluating a model")
pa, pc, pq, np = (LazyModule(name, *DATA) for name in ("pyarrow", "pyarrow.compute", "pyarrow.parquet", "numpy"))
pa_csv = LazyModule("pyarrow.csv", *DATA)
pa_fs = LazyModule("pyarrow.fs", "s3", "reading and writing objects of S3")
torch, tensor_files = (LazyModule(name, *TRAINING) for name in ("torch", "safetensors.torch"))
vector_files, tantivy = (LazyModule(name, *DATA) for name in ("usearch.index", "tantivy"))
