"""The tests of resources that the official clients' source archives hold, against the gateway instead of a mock.

They send every field that the provider documents and check each reply against the client's types, strictly.
"""

from __future__ import annotations

import re
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.deploy.tools import require_environment

from .conftest import list_differences, run_pytest

if TYPE_CHECKING:
    from tests.serving.conftest import Platform

pytestmark = [pytest.mark.nightly, pytest.mark.enable_socket]

OPENAI = [
    f"tests/api_resources/{name}.py"
    for name in (
        *("chat/test_completions", "test_completions", "test_embeddings", "test_models"),
        *("test_responses", "test_files", "test_batches"),
    )
]
STORED = "(method|raw_response|streaming_response)_(retrieve|update|delete|cancel|compact)"
# Replies are not stored, models are not deleted, and a response names its model. Files only hold requests of batches,
# and the tests name files that do not exist. Token ids are numbers, `best_of` and `limit` begin with 1. The client asks
# for base64 vectors and decodes them, but its strict mode checks them before.
OPENAI_REFUSED = {
    rf"Completions::test_{STORED}": "does not exist",
    r"Completions::test_(method|raw_response|streaming_response)_list": "Method GET is not allowed",
    r"Completions::test_method_create_with_all_params": "Error code: 400",
    r"Models::test_\w+_delete": "Method DELETE is not allowed",
    r"Embeddings::test_(method|raw_response|streaming_response)_create\[(strict|aiohttp)": "CreateEmbeddingResponse",
    rf"Responses::test_{STORED}": "The gateway keeps no responses",
    r"Responses::test_\w+_create_overload": "'model' is required",
    r"Responses::test_method_create_with_all_params": "Error code: 400",
    rf"Files::test_{STORED}": "No such file: 'file_id'",
    r"Files::test_\w+_create": "Error code: 400",
    rf"Batches::test_{STORED}": "No such batch: 'batch_id'",
    r"Batches::test_\w+_create": "No such file: 'input_file_id'",
    r"Batches::test_method_create_with_all_params": "Error code: 400",
    r"(Files|Batches)::test_method_list_with_all_params": "'limit' must be from 1",
}
ANTHROPIC = ["tests/api_resources/test_messages.py", "tests/api_resources/test_models.py"]
# Containers, workspaces and profiles belong to the provider.
ANTHROPIC_REFUSED = {r"Messages::test_method_(create|count_tokens)_with_all_params": "Error code: 400"}


def unpack_suite(name: str, folder: Path) -> Path:
    """Unpack a client's source archive, with its tests' key taken from the environment."""
    archives = require_environment("clients").parents[1] / "sdists"
    (archive,) = archives.glob(f"{name}-*.tar.gz")
    with tarfile.open(archive) as opened:
        opened.extractall(folder, filter="data")
    (root,) = folder.iterdir()
    settings = root / "tests/conftest.py"
    text, count = re.subn(r"(?m)^api_key = .*", 'api_key = os.environ["GATEWAY_KEY"]', settings.read_text())
    assert count == 1
    settings.write_text(text)
    return root


@pytest.mark.parametrize(
    ("name", "files", "refused", "tests"),
    [("openai", OPENAI, OPENAI_REFUSED, 475), ("anthropic", ANTHROPIC, ANTHROPIC_REFUSED, 110)],
    ids=["openai", "anthropic"],
)
def test_official_client(
    scripted: Platform, tmp_path: Path, name: str, files: list[str], refused: dict[str, str], tests: int
) -> None:
    url = scripted.url if name == "openai" else scripted.url.removesuffix("/v1")
    outcomes = run_pytest(
        *("clients", "-n", "0", *files),
        cwd=unpack_suite(name, tmp_path),
        TEST_API_BASE_URL=url,
        GATEWAY_KEY=scripted.key,
    )
    assert len(outcomes) >= tests
    problems = list_differences(outcomes, refused)
    assert not problems, problems
