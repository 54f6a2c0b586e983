"""Texts and properties of documents by format; runs in the child process only.

HTML and Word become Markdown (headings, lists, tables; no addresses of links), a PDF its text page by page, slides one
page each with their notes, sheets one page each as lines of tab-separated cells. Images are decoded to find damaged
ones; only their size is returned. Libraries were chosen for size, start-up and native parsing: pypdfium2,
html-to-markdown and calamine are compiled; mammoth and python-pptx read XML by expat and lxml without entities.
"""

import codecs
import html
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any, NamedTuple

MAX_PAGES = 100_000
MAX_UNPACKED_BYTES = 512 * 1024 * 1024
MAX_PIXELS = 256 * 1024 * 1024
ENCODING_BYTES = 2048  # an HTML page names its encoding near its beginning
OLE_SIGNATURE = bytes.fromhex("d0cf11e0a1b11ae1")  # of Office 97, and of encrypted files of newer Office
CHARSET = re.compile(
    rb"(?:<meta[^>]{0,200}?charset|<\?xml[^>]{0,200}?encoding)\s*=\s*[\"']?([\w-]{1,40})", re.IGNORECASE
)
# Declared name -> encoding that browsers use (encoding.spec.whatwg.org).
BROWSER_ENCODINGS = {
    **dict.fromkeys(("iso-8859-1", "latin1", "latin-1", "us-ascii", "ascii"), "windows-1252"),
    **dict.fromkeys(("utf-16", "utf-16le", "utf-16be"), "utf-8"),
}
TITLE = re.compile(r"<title[^>]{0,200}>(.{0,1000}?)</title", re.IGNORECASE | re.DOTALL)
LINE_END = re.compile(r"[ \t]*\r?\n")
CORE_PART = "docProps/core.xml"
CORE_TITLE = re.compile(r"<dc:title>(.{0,1000}?)</dc:title>", re.DOTALL)


class DocumentError(Exception):
    """A document that is not read; the message is the reason in the quarantine."""


class DocumentPage(NamedTuple):
    """A page, slide or sheet; `broken` is the reason if it has no text."""

    text: str
    page: int = 1
    title: str = ""
    broken: str = ""
    width: int = 0
    height: int = 0
    format: str = ""


Pages = Iterator[DocumentPage]


def _parse_html(raw: bytes) -> Pages:
    text = _decode_html(raw)
    found = TITLE.search(text[:65536])
    yield DocumentPage(_convert_html(text), title=_clean_title(found[1] if found else ""))


def _decode_html(raw: bytes) -> str:
    """Decode by byte order mark, declared encoding, UTF-8, Windows-1252, as browsers do."""
    marks = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
    named = [encoding for mark, encoding in marks if raw.startswith(mark)]
    if declared := CHARSET.search(raw[:ENCODING_BYTES]):
        name = declared[1].decode("ascii", "replace").lower()
        named.append(BROWSER_ENCODINGS.get(name, name))
    for encoding in (*named, "utf-8"):
        try:
            return raw.decode(encoding)
        except (UnicodeDecodeError, LookupError):
            continue
    return raw.decode("windows-1252", errors="replace")


def _convert_html(text: str) -> str:
    import html_to_markdown  # noqa: PLC0415

    options = html_to_markdown.ConversionOptions(strip_tags=["a"], skip_images=True, extract_metadata=False)
    made = html_to_markdown.convert(text, options)
    if made.warnings:  # the library omits what is nested deeper than its limit
        raise DocumentError("nested too deep")
    return str(made.content)


def _clean_title(text: str) -> str:
    return " ".join(html.unescape(text).split())


def _parse_pdf(raw: bytes) -> Pages:
    import pypdfium2  # noqa: PLC0415

    try:
        document = pypdfium2.PdfDocument(raw)
    except pypdfium2.PdfiumError as error:
        raise DocumentError("encrypted" if "password" in str(error).lower() else "damaged") from error
    if len(document) > MAX_PAGES:
        raise DocumentError(f"more than {MAX_PAGES:,} pages")
    title = _clean_title(document.get_metadata_value("Title"))
    for place in range(len(document)):
        try:
            page = document[place]
            content = page.get_textpage()
            # pdfium writes U+FFFE for a hyphen that ends a line.
            text = LINE_END.sub("\n", content.get_text_range()).replace("\ufffe", "")
            content.close()
            page.close()
        except pypdfium2.PdfiumError:
            yield DocumentPage("", place + 1, title, "page damaged")
        else:
            yield DocumentPage(text, place + 1, title)


def _parse_word(raw: bytes) -> Pages:
    import mammoth  # noqa: PLC0415

    package = _open_package(raw)
    no_image = mammoth.images.img_element(lambda _image: {})
    text = mammoth.convert_to_html(BytesIO(raw), convert_image=no_image).value
    core = package.read(CORE_PART).decode("utf-8", "replace") if CORE_PART in package.NameToInfo else ""
    found = CORE_TITLE.search(core)
    yield DocumentPage(_convert_html(text), title=_clean_title(found[1] if found else ""))


def _parse_slides(raw: bytes) -> Pages:
    import pptx  # noqa: PLC0415

    _open_package(raw)
    for number, slide in enumerate(pptx.Presentation(BytesIO(raw)).slides, 1):
        title = slide.shapes.title
        texts = list(_list_shape_texts(slide.shapes))
        if slide.has_notes_slide and slide.notes_slide.notes_text_frame is not None:
            texts.append(slide.notes_slide.notes_text_frame.text)
        text = "\n\n".join(text for text in texts if text.strip())
        yield DocumentPage(text, number, _clean_title(title.text_frame.text if title is not None else ""))


def _list_shape_texts(shapes: Any) -> Iterator[str]:
    for shape in shapes:
        if hasattr(shape, "shapes"):
            yield from _list_shape_texts(shape.shapes)
        elif shape.has_text_frame:
            yield shape.text_frame.text
        elif getattr(shape, "has_table", False):
            yield "\n".join("\t".join(cell.text for cell in row.cells) for row in shape.table.rows)


def _parse_workbook(raw: bytes) -> Pages:
    import python_calamine  # noqa: PLC0415

    if not raw.startswith(OLE_SIGNATURE):
        _open_package(raw)
    try:
        book = python_calamine.CalamineWorkbook.from_filelike(BytesIO(raw))
    except python_calamine.PasswordError as error:
        raise DocumentError("encrypted") from error
    for number, name in enumerate(book.sheet_names, 1):
        lines = ("\t".join(map(_format_cell, row)).rstrip("\t") for row in book.get_sheet_by_name(name).iter_rows())
        yield DocumentPage("\n".join(lines), number, name)


def _format_cell(value: object) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # a workbook holds every number as a float
    return " ".join(str(value).split())


def _parse_image(raw: bytes) -> Pages:
    from PIL import Image  # noqa: PLC0415

    with warnings.catch_warnings(action="ignore"), Image.open(BytesIO(raw)) as image:
        width, height, form = image.width, image.height, str(image.format).lower()
        if width * height > MAX_PIXELS:
            raise DocumentError(f"more than {MAX_PIXELS:,} pixels")
        image.draft(None, (width // 8, height // 8))  # JPEG only: decodes in an eighth of the size
        image.load()
        yield DocumentPage("", width=width, height=height, format=form)


def _open_package(raw: bytes) -> zipfile.ZipFile:
    """The zip package of an office file. A member never unpacks to more than its declared size."""
    if raw.startswith(OLE_SIGNATURE):
        raise DocumentError("encrypted, or of Office 97")
    package = zipfile.ZipFile(BytesIO(raw))
    if sum(member.file_size for member in package.infolist()) > MAX_UNPACKED_BYTES:
        raise DocumentError(f"unpacks to more than {MAX_UNPACKED_BYTES >> 20} MB")
    return package


_PARSERS: dict[str, Callable[[bytes], Pages]] = {
    "html": _parse_html,
    "pdf": _parse_pdf,
    "docx": _parse_word,
    "pptx": _parse_slides,
    "workbook": _parse_workbook,
    "image": _parse_image,
}


def parse_document(form: str, raw: bytes) -> Pages:
    """The pages of a document. Raises DocumentError, and any error of the libraries for damaged documents."""
    return _PARSERS[form](raw)
