"""Files and batches of the budget suite: a batch to its end, complete results, rates of file requests."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from http import HTTPStatus
from typing import Any

from .gateway_client import GatewayClient, GatewayError, encode_json
from .request_templates import CHAT, Answer, RequestTemplate, describe_failure

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
    template: RequestTemplate, client: GatewayClient, count: int, *, cancelled: bool = False
) -> list[Answer]:
    """Run a batch of `count` requests to its end, or cancel it at once; return the answers of its lines.

    One refused answer if the gateway does not accept it. One more answer if its results are not complete."""
    url = template.path
    rows = ({"custom_id": f"{n}", "method": "POST", "url": url, "body": template.build_body(n)} for n in range(count))
    form = FORM_HEAD + b"\n".join(map(encode_json, rows)) + FORM_END
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
    except (GatewayError, TimeoutError) as error:
        return [describe_failure(error)]


async def _read_results(
    template: RequestTemplate, client: GatewayClient, batch: dict[str, Any], count: int
) -> list[Answer]:
    names = [batch[name] for name in ("output_file_id", "error_file_id") if batch.get(name)]
    answers: list[Answer] = []
    lines_by_id: Counter[str] = Counter()
    problem = ""
    for name in names:
        results = await client.get_bytes(f"{FILES_PATH}/{name}/content")
        rows: list[dict[str, Any]] = [json.loads(line) for line in results.splitlines() if line]
        lines_by_id.update(str(row.get("custom_id")) for row in rows)
        answers += [template.read_row(row) for row in rows]
        size = (await client.get(f"{FILES_PATH}/{name}")).get("bytes")
        if size != len(results):
            problem = f"a file of {size} bytes has {len(results)}"
    lost = sum(not lines_by_id[str(number)] for number in range(count))
    repeated = lines_by_id.total() - len(lines_by_id)
    if lost or repeated:
        problem = f"{lost} lines are lost, {repeated} are repeated"
    return [*answers, Answer(0, reason=WRONG_RESULTS + problem)] if problem else answers


async def list_files_beyond_rate(client: GatewayClient) -> list[Answer]:
    """List files more often than RATE_PER_MINUTE allows."""
    answers: list[Answer] = []
    for _ in range(RATE_REQUESTS):
        try:
            await client.get(FILES_PATH)
            answers.append(Answer(HTTPStatus.OK))
        except GatewayError as error:
            answers.append(describe_failure(error))
    return answers


async def find_range_problem(client: GatewayClient) -> str:
    """Upload a file and read parts of it. Returns what is wrong, or an empty text. Raises GatewayError."""
    row = {"custom_id": "0", "method": "POST", "url": CHAT, "body": {"model": "none", "messages": []}}
    content = encode_json(row) + b"\n"
    file = await client.send_bytes("POST", FILES_PATH, FORM_HEAD + content + FORM_END, FORM_TYPE)
    path = f"{FILES_PATH}/{file.get('id')}"
    try:
        return await _compare_ranges(client, f"{path}/content", content)
    finally:
        await client.request("DELETE", path)


async def _compare_ranges(client: GatewayClient, path: str, content: bytes) -> str:
    size = len(content)
    if await client.get_bytes(path) != content:
        return "the file is not what was uploaded"
    for wanted, part in (("5-14", content[5:15]), (f"{size - 7}-", content[-7:]), ("-7", content[-7:])):
        reply = await client.request("GET", path, headers={"Range": f"bytes={wanted}"})
        if reply.status == HTTPStatus.OK and reply.body == content:
            return "Range is ignored: each download is the whole file"
        if reply.status != HTTPStatus.PARTIAL_CONTENT or reply.body != part:
            return f"bytes {wanted}: status {reply.status} with {len(reply.body)} bytes"
    beyond = await client.request("GET", path, headers={"Range": f"bytes={size}-"})
    if beyond.status != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        return f"a range beyond the end: status {beyond.status}"
    return ""
