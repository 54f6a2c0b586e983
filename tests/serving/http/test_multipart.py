"""Forms with files: what is read, what is refused, and that a written form is read back."""

import secrets

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archwright.serving.http.errors import ApiError
from archwright.serving.http.multipart import MAX_PARTS, FormPart, encode_multipart, parse_form, read_parts

TYPE = "multipart/form-data; boundary=XX"
FIELD = b'--XX\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper\r\n'
END = b"--XX--\r\n"


def test_a_form_of_an_official_client_is_read() -> None:
    files = {"file": ('a "b" ü.wav', b"RIFF\r\n--YY\x00\xff", "audio/wav")}
    request = httpx2.Request("POST", "http://g/v1/x", data={"model": "whisper", "empty": ""}, files=files)
    found, file = parse_form(request.read(), request.headers["content-type"])
    assert file is not None and found == {"model": "whisper", "empty": "", "file": file.data}
    assert (file.data, file.content_type, file.filename[-4:]) == (b"RIFF\r\n--YY\x00\xff", "audio/wav", ".wav")


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (FIELD + END, "application/json"),
        (FIELD + END, "multipart/form-data"),
        (FIELD + END, f"multipart/form-data; boundary={'X' * 71}"),
        (FIELD + END, "multipart/form-data; boundary=\x00"),
        (FIELD + END, "multipart/mixed; boundary=XX"),
        (b"", TYPE),
        (b"preamble\r\n" + FIELD + END, TYPE),
        (FIELD, TYPE),
        (FIELD + b"--XX-\r\n", TYPE),
        (FIELD + END + b"more", TYPE),
        (FIELD.replace(b"whisper", b"a\r\n--XXb") + END, TYPE),
        (FIELD + FIELD + END, TYPE),
        (FIELD.replace(b"form-data", b"attachment") + END, TYPE),
        (FIELD.replace(b'; name="model"', b"") + END, TYPE),
        (FIELD.replace(b"model", b"") + END, TYPE),
        (FIELD.replace(b"model", b"\xff") + END, TYPE),
        (FIELD.replace(b"\r\n\r\n", b"\r\nContent-Transfer-Encoding: base64\r\n\r\n") + END, TYPE),
        (FIELD.replace(b"model", b"m" * 5_000) + END, TYPE),
        (FIELD.replace(b"\r\n\r\n", b"\r\n") + END, TYPE),
        (FIELD * (MAX_PARTS + 1) + END, TYPE),
        (FIELD.replace(b'name="model"', b"name*0=a; name*=b") + END, TYPE),
        (FIELD.replace(b'name="model"', b"name=a; filename*=utf-7''+2AA-") + END, TYPE),
        (FIELD + END, "multipart/form-data; boundary*0=X; boundary*=X"),
    ],
)
def test_a_malformed_form_is_refused(body: bytes, content_type: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse_form(body, content_type)
    assert caught.value.status == 400


names = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z"), exclude_characters='"\\%'), min_size=1)
parts = st.builds(FormPart, names, st.just("") | names, st.just("audio/wav"), st.binary())


@settings(max_examples=60, deadline=None)
@given(st.lists(parts, min_size=1, max_size=5))
def test_a_written_form_is_read_back(sent: list[FormPart]) -> None:
    body, content_type = encode_multipart(sent)
    found = read_parts(body, content_type)
    assert [(part.name, part.filename, part.data) for part in found] == [
        (part.name, part.filename, part.data) for part in sent
    ]


@settings(max_examples=100, deadline=None)
@given(st.binary(), st.integers(0, 200), st.integers(0, 40))
def test_no_bytes_raise_anything_else(noise: bytes, at: int, cut: int) -> None:
    body = FIELD + END
    mutated = body[:at] + noise + body[at + cut :]
    try:
        assert all(type(part.data) is bytes for part in read_parts(mutated, TYPE))
    except ApiError as error:
        assert error.status == 400


def test_a_name_cannot_end_its_header() -> None:
    body, content_type = encode_multipart([FormPart('a"\r\nx: y', 'f"\r\n\r\n', "audio/wav", secrets.token_bytes(8))])
    assert [part.name for part in read_parts(body, content_type)] == ["a%22%0D%0Ax: y"]
