"""The command line, with the tiny model among those of the catalog.

usage: tiny_model_cli.py DIGEST SIZE VERB ...
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from archwright.catalog.catalog import Catalog
from archwright.cli import main

if __name__ == "__main__":
    place = importlib.util.spec_from_file_location("tiny", Path(__file__).with_name("tiny_model.py"))
    assert place is not None and place.loader is not None
    tiny = importlib.util.module_from_spec(place)
    place.loader.exec_module(tiny)
    row = tiny.artefact(sys.argv[1], int(sys.argv[2]))
    Catalog.artefacts = property(lambda self: {row.model: row})  # type: ignore[assignment, method-assign]
    sys.exit(main(sys.argv[3:]))
