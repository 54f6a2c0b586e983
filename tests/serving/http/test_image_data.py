"""Only base64 in strings of image data is image data, wherever the pieces of a body are cut."""

from __future__ import annotations

import json
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archwright.serving.http import image_data
from archwright.serving.http.image_data import ImageScan

BASE64 = "QUJD+/=="
IMAGE = re.compile(rb'"data(?::image\\?/[\w.+-]{1,32};base64,|"\s{0,8}:\s{0,8}")([^"]*)')
PART = st.one_of(
    st.text('abcd"\\:/;, \n', max_size=12),
    st.sampled_from(
        ['"data:image/png;base64,', '"data:image\\/jpeg;base64,', '"data" : "', '"data":"', '"data', BASE64]
    ),
)


def scan(data: bytes, cuts: list[int]) -> int:
    found, places = ImageScan(), [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for begin, end in pairwise(places):
        found.feed(data[begin:end])
    return found.other_bytes


@given(st.lists(PART, max_size=20).map("".join), st.lists(st.integers(0, 1000), max_size=6))
def test_pieces_count_as_the_whole(text: str, cuts: list[int]) -> None:
    data, at, images = text.encode(), 0, 0
    while found := IMAGE.search(data, at):
        images += len(re.findall(rb"[A-Za-z0-9+/=_-]", found[1]))
        at = found.end()
    assert scan(data, cuts) == scan(data, []) == len(data) - images


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64," + BASE64 * 1000}},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": BASE64 * 1000}},
    ],
)
def test_images_of_both_interfaces_are_found(part: object) -> None:
    data = json.dumps({"messages": [{"role": "user", "content": [part, {"type": "text", "text": "So?"}]}]}).encode()
    assert scan(data, [50, 120, 5000]) == len(data) - 8000


def test_many_small_images_are_no_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_data, "MAX_IMAGES", 2)
    unit = b'"data":"QUJD",'
    assert scan(unit * 5, []) == 5 * len(unit) - 8
