"""Files and batches of the budget suite: a batch to its end, complete results, rates of file requests."""

from __future__ import annotations

import asyncio
from collections import Counter
from http import HTTPStatus
from typing import Any

import msgspec

from archwright.errors import ArchwrightError
from archwright.http_client.client import EngineClient
from archwright.reconcile.conformance.request_templates import Answer, RequestTemplate, describe_failure

BATCH_LIMIT_S, BATCH_POLL_S = 300.0, 0.25
BATCH_ENDS = ("completed", "failed", "expired", "cancelled")
FILES_PATH, BATCHES_PATH = "/v1/files", "/v1/batches"
RATE_PER_MINUTE, RATE_REQUESTS = 3, 12
WRONG_RESULTS = "wrong results: "  # begins the reason of an answer
BOUNDARY = "archwright-conformance"
FORM_HEAD = (
    f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="batch.jsonl"\r\n'
    "Content-Type: application/jsonl\r\n\r\n"
).encode()
FORM_TYPE, FORM_END = f"multipart/form-data; boundary={BOUNDARY}", f"\r\n--{BOUNDARY}--\r\n".encode()


async def send_batch(
    template: RequestTemplate, client: EngineClient, count: int, *, cancelled: bool = False
) -> list[Answer]:
    """Run a batch of `count` requests to its end, or cancel it at once; return the answers of its lines.

    One refused answer if the gateway does not accept it. One more answer if its results are not complete."""
    url = f"/v1{template.path}"
    rows = ({"custom_id": f"{n}", "method": "POST", "url": url, "body": template.build_body(n)} for n in range(count))
    form = FORM_HEAD + b"\n".join(map(msgspec.json.encode, rows)) + FORM_END
    try:
        async with asyncio.timeout(BATCH_LIMIT_S):
            file = await client.send_bytes("POST", FILES_PATH, form, FORM_TYPE)
            order = {"input_file_id": file.get("id"), "endpoint": url, "completion_window": "24h"}
            batch = await client.post(BATCHES_PATH, order)
            if cancelled:
                await client.post(f"{BATCHES_PATH}/{batch.get('id')}/cancel", {})
            while batch.get("status") not in BATCH_ENDS:
                await asyncio.sleep(BATCH_POLL_S)
                batch = await client.get(f"{BATCHES_PATH}/{batch.get('id')}")
            return await _read_results(template, client, batch, count)
    except (ArchwrightError, TimeoutError) as error:
        return [describe_failure(error)]


async def _read_results(
    template: RequestTemplate, client: EngineClient, batch: dict[str, Any], count: int
) -> list[Answer]:
    names = [batch[name] for name in ("output_file_id", "error_file_id") if batch.get(name)]
    answers: list[Answer] = []
    lines_by_id: Counter[str] = Counter()
    problem = ""
    for name in names:
        text = await client.get_text(f"{FILES_PATH}/{name}/content")
        rows: list[dict[str, Any]] = [msgspec.json.decode(line) for line in text.splitlines() if line]
        lines_by_id.update(str(row.get("custom_id")) for row in rows)
        answers += [template.read_row(row) for row in rows]
        size = (await client.get(f"{FILES_PATH}/{name}")).get("bytes")
        if size != len(text.encode()):
            problem = f"a file of {size} bytes has {len(text.encode())}"
    lost = sum(not lines_by_id[str(number)] for number in range(count))
    repeated = lines_by_id.total() - len(lines_by_id)
    if lost or repeated:
        problem = f"{lost} lines are lost, {repeated} are repeated"
    return [*answers, Answer(0, reason=WRONG_RESULTS + problem)] if problem else answers


async def list_files_beyond_rate(client: EngineClient) -> list[Answer]:
    """List files more often than RATE_PER_MINUTE allows."""
    answers: list[Answer] = []
    for _ in range(RATE_REQUESTS):
        try:
            await client.get(FILES_PATH)
            answers.append(Answer(HTTPStatus.OK))
        except ArchwrightError as error:
            answers.append(describe_failure(error))
    return answers
