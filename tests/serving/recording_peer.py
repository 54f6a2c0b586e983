"""A client's connection that keeps what is sent."""

from __future__ import annotations


class RecordingPeer:
    """A line that keeps what is sent."""

    left = False

    def __init__(self) -> None:
        self.said = b""

    def send(self, data: bytes) -> None:
        self.said += data

    def is_reusable(self) -> bool:
        return True

    def on_response_sent(self) -> None:
        """Nothing follows."""

    def abort(self) -> None:
        raise AssertionError("nobody left")
