"""Small documents of every format, and hostile ones, made in memory."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from io import BytesIO

import pptx
import xlsxwriter
from PIL import Image

HTML = b"""<!DOCTYPE html><html><head><title>Spindle &amp; bearing</title><meta charset="utf-8">
<style>p { color: red }</style><script>alert("never")</script></head>
<body><h1>Report</h1><p>First paragraph<br>with a <a href="http://example.com/x">link</a>.</p>
<p>Second \xc3\xa9t\xc3\xa9.</p>
<ul><li>one</li><li>two</li></ul><pre>a  b
  c</pre><img src="http://example.com/p.png"></body></html>"""
WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
TYPES = "http://schemas.openxmlformats.org/package/2006/content-types"
RELATIONS = "http://schemas.openxmlformats.org/package/2006/relationships"
OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument"
MAIN = "application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"


def make_package(parts: dict[str, str | bytes]) -> bytes:
    made = BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as package:
        for name, content in parts.items():
            package.writestr(name, content)
    return made.getvalue()


def make_zip_bomb() -> bytes:
    """A package with a member that claims to unpack to 600 MB."""
    made = BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as package:
        package.writestr("word/document.xml", b" " * 1000)
        package.infolist()[0].file_size = 600 << 20
    return made.getvalue()


def make_word(body: str = "The bearing is warm.", doctype: str = "", title: str = "Log") -> bytes:
    """A Word document with the heading "Shift" and a paragraph."""
    heading = '<w:p><w:pPr><w:pStyle w:val="Heading1"/></w:pPr><w:r><w:t>Shift</w:t></w:r></w:p>'
    paragraph = f"<w:p><w:r><w:t>{body}</w:t></w:r></w:p>"
    document = f'<w:document xmlns:w="{WORD}"><w:body>{heading}{paragraph}</w:body></w:document>'
    relation = f'<Relationship Id="r1" Type="{OFFICE}" Target="word/document.xml"/>'
    return make_package(
        {
            "[Content_Types].xml": f'<Types xmlns="{TYPES}"><Default Extension="xml" ContentType="application/xml"/>'
            f'<Override PartName="/word/document.xml" ContentType="{MAIN}"/></Types>',
            "_rels/.rels": f'<Relationships xmlns="{RELATIONS}">{relation}</Relationships>',
            "docProps/core.xml": f"<p><dc:title>{title}</dc:title></p>",
            "word/document.xml": doctype + document,
        }
    )


def make_entity_bomb() -> bytes:
    """Nine levels of ten entities each: a billion words."""
    levels = "".join(f'<!ENTITY l{level} "{f"&l{level - 1};" * 10}">' for level in range(1, 10))
    return make_word("&l9;", f'<!DOCTYPE w [<!ENTITY l0 "lol">{levels}]>')


def make_pdf(*pages: bytes, count: int | None = None, extra: bytes = b"") -> bytes:
    """A PDF with a content stream per page; `count` is the number of pages that it claims, `extra` in its trailer."""
    kids = b" ".join(b"%d 0 R" % (4 + 2 * place) for place in range(len(pages)))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [%s] /Count %d >>" % (kids, len(pages) if count is None else count),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for place, content in enumerate(pages):
        packed = zlib.compress(content, 1)
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 300 300] /Contents %d 0 R "
            b"/Resources << /Font << /F 3 0 R >> >> >>" % (5 + 2 * place)
        )
        objects.append(b"<< /Filter /FlateDecode /Length %d >> stream\n%s\nendstream" % (len(packed), packed))
    made = bytearray(b"%PDF-1.5\n")
    places = []
    for number, content in enumerate(objects, 1):
        places.append(len(made))
        made += b"%d 0 obj %s endobj\n" % (number, content)
    start = len(made)
    made += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    made += b"".join(b"%010d 00000 n \n" % place for place in places)
    made += b"trailer << /Size %d /Root 1 0 R %s >>\nstartxref\n%d\n%%%%EOF" % (len(objects) + 1, extra, start)
    return bytes(made)


def make_encrypted_pdf() -> bytes:
    keys = b"/O (%s) /U (%s)" % (b"a" * 32, b"b" * 32)
    return make_pdf(b"", extra=b"/Encrypt << /Filter /Standard /V 1 /R 2 %s /P -4 >> /ID [(abc) (abc)]" % keys)


def make_slides() -> bytes:
    deck = pptx.Presentation()
    first = deck.slides.add_slide(deck.slide_layouts[1])
    first.shapes.title.text, first.placeholders[1].text = "Plan", "First\nSecond"
    first.notes_slide.notes_text_frame.text = "Say hello."
    second = deck.slides.add_slide(deck.slide_layouts[5])
    second.shapes.title.text = "Parts"
    table = second.shapes.add_table(1, 2, 0, 0, 1000, 1000).table
    table.cell(0, 0).text, table.cell(0, 1).text = "bolt", "3"
    made = BytesIO()
    deck.save(made)
    return made.getvalue()


def make_workbook(sheets: Mapping[str, Sequence[Sequence[object]]]) -> bytes:
    made = BytesIO()
    with xlsxwriter.Workbook(made) as book:
        for name, rows in sheets.items():
            sheet = book.add_worksheet(name)
            for place, row in enumerate(rows):
                sheet.write_row(place, 0, row)
    return made.getvalue()


def make_image(form: str) -> bytes:
    made = BytesIO()
    Image.effect_noise((64, 48), 50).convert("RGB").save(made, form)
    return made.getvalue()


def write_text(text: bytes) -> bytes:
    return b"BT /F 12 Tf 20 200 Td (%s) Tj ET" % text


def make_far_sheet() -> bytes:
    """A workbook whose two cells span the whole sheet: 17 billion cells."""
    made = BytesIO()
    with xlsxwriter.Workbook(made) as book:
        sheet = book.add_worksheet()
        sheet.write(0, 0, 1)
        sheet.write(1_048_575, 16_383, 2)
    return made.getvalue()
