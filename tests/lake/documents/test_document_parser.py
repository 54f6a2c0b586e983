"""Tests of the child that parses documents: what it reads, and what it survives."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.lake.documents import sample_documents as samples

from archwright.errors import DataError, MissingError
from archwright.lake.documents import document_parser, parser_process
from archwright.lake.documents.document_parser import DocumentParser, ParserLimits
from archwright.lake.documents.parser_process import ParsedDocument

pytestmark = pytest.mark.process
LIMITS = ParserLimits(memory_mb=320, wall_s=20, cpu_s=10, document_mb=8, output_mb=1)


@pytest.fixture(scope="module")
def parser() -> Iterator[DocumentParser]:
    made = DocumentParser(LIMITS)
    yield made
    made.close()


def parse(parser: DocumentParser, folder: Path, raw: bytes, form: str) -> ParsedDocument:
    path = folder / "document"
    path.write_bytes(raw)
    return parser.parse_file(path, form)


def test_html_becomes_markdown_without_scripts_styles_and_links(parser: DocumentParser, tmp_path: Path) -> None:
    (page,) = parse(parser, tmp_path, samples.HTML, "html").pages
    assert page.title == "Spindle & bearing"
    assert page.text == (
        "# Report\n\nFirst paragraph  \nwith a link.\n\nSecond été.\n\n- one\n- two\n\n```\na  b\n  c\n```"
    )


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"<meta charset=iso-8859-15><p>\xa4 5", "€ 5"),
        ('<meta http-equiv="Content-Type" content="text/html; charset=koi8-r"><p>дом'.encode("koi8-r"), "дом"),
        ("<p>日本".encode("utf-16"), "日本"),
        (b"<p>caf\xe9", "café"),
        (b'<meta charset="ISO-8859-1"><p>\x93a\x94', "“a”"),
        (b'<meta charset="utf-16"><p>caf\xc3\xa9', "café"),
        (b'<?xml version="1.0" encoding="iso-8859-2"?><p>\xb1', "ą"),
        (b"<p>a\0b<meta charset=nonsense>", "ab"),
    ],
)
def test_html_is_decoded_as_browsers_do(raw: bytes, text: str, parser: DocumentParser, tmp_path: Path) -> None:
    assert [page.text.replace("\ufffd", "") for page in parse(parser, tmp_path, raw, "html").pages] == [text]


def test_a_pdf_has_a_row_per_page(parser: DocumentParser, tmp_path: Path) -> None:
    raw = samples.make_pdf(samples.write_text(b"Page one"), b"", samples.write_text(b"Page three"))
    found = parse(parser, tmp_path, raw, "pdf")
    assert [(page.page, page.text) for page in found.pages] == [(1, "Page one"), (2, ""), (3, "Page three")]


def test_office_documents(parser: DocumentParser, tmp_path: Path) -> None:
    (word,) = parse(parser, tmp_path, samples.make_word(), "docx").pages
    assert (word.title, word.text) == ("Log", "# Shift\n\nThe bearing is warm.")
    slides = parse(parser, tmp_path, samples.make_slides(), "pptx").pages
    assert [(s.page, s.title, s.text) for s in slides] == [
        (1, "Plan", "Plan\n\nFirst\nSecond\n\nSay hello."),
        (2, "Parts", "Parts\n\nbolt\t3"),
    ]
    sheets = parse(
        parser,
        tmp_path,
        samples.make_workbook({"Stock": [["part", "n"], ["bolt\nM4", 3], ["nut", 2.5, None, ""]]}),
        "workbook",
    ).pages
    assert [(s.page, s.title, s.text) for s in sheets] == [(1, "Stock", "part\tn\nbolt M4\t3\nnut\t2.5")]


@pytest.mark.parametrize("form", ["png", "jpeg", "webp", "tiff", "gif"])
def test_an_image_has_a_size_and_no_text(form: str, parser: DocumentParser, tmp_path: Path) -> None:
    raw = samples.make_image(form)
    (image,) = parse(parser, tmp_path, raw, "image").pages
    assert (image.width, image.height, image.format, image.text) == (64, 48, form, "")
    assert parse(parser, tmp_path, raw[: len(raw) // 2], "image").broken.startswith("damaged")


HOSTILE = {
    "zip bomb": (samples.make_zip_bomb, "docx", "unpacks to more"),
    "entity bomb": (samples.make_entity_bomb, "docx", "damaged: ExpatError"),
    "nested html": (lambda: b"<p>a" + b"<div>" * 100_000 + b"x", "html", "nested too deep"),
    "bomb in a pdf": (lambda: samples.make_pdf(b" " * (160 << 20)), "pdf", "parser crashed: SIG"),
    "sheet of 17 billion cells": (samples.make_far_sheet, "workbook", "needs more than 320 MB"),
    "encrypted pdf": (samples.make_encrypted_pdf, "pdf", "encrypted"),
    "encrypted word": (lambda: bytes.fromhex("d0cf11e0a1b11ae1") + b"x" * 600, "docx", "encrypted"),
    "truncated word": (lambda: samples.make_word()[:600], "docx", "damaged: BadZipFile"),
    "truncated pdf": (lambda: samples.make_pdf(b"")[:200], "pdf", "damaged"),
    "truncated sheet": (lambda: samples.make_workbook({"S": [["a"]]})[:3000], "workbook", "damaged"),
    "empty": (lambda: b"", "pdf", "damaged"),
    "large file": (lambda: b"<p>a" * (3 << 20), "html", "larger than 8 MB"),
    "much text": (lambda: b"<p>" + b"a" * (1 << 20) + b"b", "html", "more than 1 MB of text"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_document_is_refused_with_a_reason(name: str, parser: DocumentParser, tmp_path: Path) -> None:
    make, form, reason = HOSTILE[name]
    found = parse(parser, tmp_path, make(), form)
    assert found.broken.startswith(reason), found.broken
    assert found.pages == ()
    assert parse(parser, tmp_path, b"<p>next", "html").pages[0].text == "next"


def test_a_pdf_that_claims_two_billion_pages_has_the_pages_that_exist(parser: DocumentParser, tmp_path: Path) -> None:
    found = parse(parser, tmp_path, samples.make_pdf(samples.write_text(b"x"), count=2_000_000_000), "pdf")
    assert [page.text for page in found.pages] == ["x"]


def test_a_child_that_hangs_is_ended_and_the_next_document_gets_a_new_one(tmp_path: Path) -> None:
    parser = DocumentParser(LIMITS)
    try:
        parse(parser, tmp_path, b"<p>a", "html")
        first = find_child(parser)
        os.kill(first, signal.SIGSTOP)
        parser.limits = LIMITS._replace(wall_s=1)
        assert parse(parser, tmp_path, b"<p>a", "html").broken == "took longer than 1 s"
        parser.limits = LIMITS
        assert parse(parser, tmp_path, b"<p>b", "html").pages[0].text == "b"
        os.kill(find_child(parser), signal.SIGKILL)
        assert parse(parser, tmp_path, b"<p>a", "html").broken == "parser crashed: SIGKILL"
        assert not Path(f"/proc/{first}").exists()
    finally:
        parser.close()


def test_processor_time_is_limited(tmp_path: Path) -> None:
    parser = DocumentParser(LIMITS._replace(cpu_s=0))
    try:
        slow = samples.make_word("x" * (40 << 20))  # the library appends it piece by piece
        assert parse(parser, tmp_path, slow, "docx").broken == "took longer than 0 s of processor time"
    finally:
        parser.close()


@pytest.mark.enable_socket
def test_the_child_reaches_no_network_and_knows_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush-hush")
    parser = DocumentParser(LIMITS)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/x"
        raw = f'<link rel=stylesheet href="{address}"><img src="{address}"><iframe src="{address}"></iframe><p>a'
        doctype = f'<!DOCTYPE w SYSTEM "{address}" [<!ENTITY e SYSTEM "{address}">]>'
        try:
            assert parse(parser, tmp_path, raw.encode(), "html").pages[0].text.endswith("a")
            parse(parser, tmp_path, samples.make_word("&e;", doctype), "docx")
            child = find_child(parser)
            assert b"hush" not in Path(f"/proc/{child}/environ").read_bytes()
            assert os.listdir(f"/proc/{child}/cwd") == []
            assert "seccomp" in parser.sandbox
        finally:
            parser.close()
        with pytest.raises(BlockingIOError):
            server.accept()


def test_a_missing_library_names_the_command_that_installs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document_parser, "find_spec", lambda name: None if name == "mammoth" else object())
    with pytest.raises(MissingError) as refused:
        parse(DocumentParser(LIMITS), tmp_path, b"<p>a", "html")
    assert refused.value.hint == "pip install 'archwright[documents]'"
    assert "mammoth" in refused.value.message


FAKE_CHILD = """
import os, socket, sys
channel = socket.socket(fileno=0)
def send(text, length=None):
    channel.sendall((length or len(text)).to_bytes(8, "big") + text)
if {starts}:
    send(b"{{}}")
    channel.recv(4096)
{answer}
channel.recv(4096)
"""


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("send(b'no json')", "parser crashed: invalid answer"),
        ("send(b'x', 1 << 60)", "parser crashed: invalid answer"),
        ("""send(b'{"pages": [["text", -9]]}')""", "parser crashed: invalid answer"),
        ("sys.exit(3)", "parser crashed: exit 3"),
        ("sys.exit('memory allocation of 9 bytes failed')", "needs more than 320 MB of memory"),
        ("""send(b'{"broken": "' + b"a" * 999 + b'"}')""", "a" * 200),
    ],
)
def test_a_child_that_was_taken_over_can_only_lose_its_document(
    answer: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_child(monkeypatch, tmp_path, FAKE_CHILD.format(starts=True, answer=answer))
    parser = DocumentParser(LIMITS)
    assert parse(parser, tmp_path, b"<p>a", "html").broken == reason
    parser.close()


def test_a_child_that_does_not_start_is_an_error_with_its_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_child(monkeypatch, tmp_path, FAKE_CHILD.format(starts=False, answer="sys.exit('libfoo.so is missing')"))
    with pytest.raises(DataError, match="does not start: parser crashed: exit 1 libfoo") as refused:
        parse(DocumentParser(LIMITS), tmp_path, b"<p>a", "html")
    assert refused.value.code == "AW-DATA-34"


def replace_child(monkeypatch: pytest.MonkeyPatch, folder: Path, code: str) -> None:
    (folder / "fake_child.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setattr(parser_process, "__name__", "fake_child")
    monkeypatch.setattr(document_parser, "END_S", 0.2)


def find_child(parser: DocumentParser) -> int:
    assert parser._child is not None
    return parser._child.process.pid
