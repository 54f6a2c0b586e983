"""Image data in the raw bytes of a JSON body: runs of base64, found before the body is decoded."""

import re

MAX_IMAGES = 1_000
# The begin of a string of image data: a data: URL, or the field `data` of the Messages interface.
_BEGIN = re.compile(rb'"data(?::image\\?/[\w.+-]{1,32};base64,|"\s{0,8}:\s{0,8}")')
_BEGIN_BYTES = 64  # at least the longest match
_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=-_"


class ImageScan:
    """Scan of one body that arrives in pieces. `other_bytes`: bytes so far that are no image data.

    A string of image data ends with its quote, and only its base64 characters are image data. So no other JSON value
    is in them, whatever the body is.
    """

    __slots__ = ("_images", "_inside", "_rest", "other_bytes")

    def __init__(self) -> None:
        self.other_bytes = self._images = 0
        self._inside = False
        self._rest = b""  # may hold the begin of a match

    def feed(self, piece: bytes) -> None:
        """Count the bytes of the next piece."""
        data, at = self._rest + piece, 0
        self.other_bytes -= len(self._rest)
        self._rest = b""
        while at < len(data):
            if self._inside:
                end = data.find(b'"', at)
                run = data[at:] if end < 0 else data[at:end]
                self.other_bytes += len(run.translate(None, _BASE64))
                at, self._inside = at + len(run), end < 0
                continue
            found = _BEGIN.search(data, at) if self._images < MAX_IMAGES else None
            if found is None:
                self.other_bytes += len(data) - at
                self._rest = data[max(at, len(data) - _BEGIN_BYTES) :]
                return
            self.other_bytes += found.end() - at
            self._images += 1
            at, self._inside = found.end(), True
