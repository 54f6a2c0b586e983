"""Every target runs the major version of PostgreSQL that the tests run with: a dump moves between any two of them."""

from __future__ import annotations

import json
import re

import pytest

from archwright.catalog.catalog import Catalog

from .conftest import MadeBundle

# Target -> example, and where its bundle says the version.
DATABASES = {
    "compose": ("desk", "compose.yaml", r"image: docker\.io/library/postgres:(\d+)"),
    "onprem": ("clinic", "database.yaml", r"imageName: \S+/postgresql:(\d+)"),
    "aws": ("startup", "database.tf.json", r'"engine_version": "(\d+)"'),
    "azure": ("startup", "database.tf.json", r'"version": "(\d+)"'),
    "gcp": ("startup", "database.tf.json", r'"database_version": "POSTGRES_(\d+)"'),
}


@pytest.mark.parametrize("target", DATABASES)
def test_every_target_has_the_same_major_version(target: str, made_bundle: MadeBundle, catalog: Catalog) -> None:
    example, name, pattern = DATABASES[target]
    option = f"cloud-{target}" if target in ("aws", "azure", "gcp") else None
    files = made_bundle(example, target, option).files
    texts = [file.text for path, file in files.items() if path.endswith(name)]
    assert {major for text in texts for major in re.findall(pattern, text)} == {find_major(catalog)}


def find_major(catalog: Catalog) -> str:
    return catalog.components["postgresql"].version.partition(".")[0]


def test_parameters_of_aws_are_those_of_the_version(made_bundle: MadeBundle, catalog: Catalog) -> None:
    files = made_bundle("startup", "aws", "cloud-aws").files
    (text,) = [file.text for path, file in files.items() if path.endswith("database.tf.json")]
    (group,) = json.loads(text)["resource"]["aws_db_parameter_group"].values()
    assert group["family"] == f"postgres{find_major(catalog)}"
