"""An ONNX model in onnxruntime on the processor: the options of a session, and its errors as ours."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from archwright.errors import EngineError, require_extra
from archwright.settings import disable_telemetry

# Errors only: the warnings are about the way the file was written.
LOG_SEVERITY = 3
RUNTIME_ERRORS = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NotImplemented", "RuntimeException")
FAILED_HINT = "check the values of the input, or replace the model"


class OnnxSession:
    """A loaded model; `run` may be called from several threads at once. `inputs`, `outputs`: names and types.

    `model`: its bytes, or its file if tensors are in files beside it. No library of custom operators is ever loaded.
    `hint`: what to do if onnxruntime refuses the model. Raises MissingError AW-GET-01, EngineError AW-ENG-12.
    """

    def __init__(self, model: bytes | Path, threads: int, hint: str) -> None:
        disable_telemetry()  # onnxruntime reports each session to its maker otherwise
        with require_extra("predict", "serving an ONNX model"):
            import numpy  # noqa: PLC0415  the heavy extra of this adapter
            import onnxruntime  # noqa: PLC0415
        self.numpy = numpy
        self._hint = hint
        # The exceptions have no common base class.
        raised = onnxruntime.capi.onnxruntime_pybind11_state
        self._failures = (*(getattr(raised, name) for name in RUNTIME_ERRORS), ValueError)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = LOG_SEVERITY
        given = str(model) if isinstance(model, Path) else model
        with self.checking():
            self._session = onnxruntime.InferenceSession(given, options, providers=["CPUExecutionProvider"])
        self.inputs: dict[str, str] = {one.name: one.type for one in self._session.get_inputs()}
        self.outputs: list[tuple[str, str]] = [(one.name, one.type) for one in self._session.get_outputs()]

    @contextmanager
    def checking(self) -> Iterator[None]:
        """Turn a failure or a ValueError while the model is loaded or tried into EngineError AW-ENG-12."""
        try:
            yield
        except (*self._failures, EngineError) as error:
            message = f"onnxruntime cannot load the model: {_format_error(error)}"
            raise EngineError("AW-ENG-12", message, hint=self._hint) from error

    def run(self, feed: Mapping[str, Any], outputs: Sequence[str]) -> list[Any]:
        """The arrays of `outputs`. Raises EngineError AW-ENG-13 if the model fails on this input."""
        try:
            found: list[Any] = self._session.run(outputs, feed)
        except self._failures as error:
            message = f"the model failed on an input: {_format_error(error)}"
            raise EngineError("AW-ENG-13", message, hint=FAILED_HINT) from error
        return found

    def require_finite(self, found: Any) -> Any:
        """Return `found`. Raises EngineError AW-ENG-13 if it has infinite numbers or NaN."""
        if not self.numpy.isfinite(found).all():
            raise EngineError("AW-ENG-13", "the model returned numbers that are not finite", hint=FAILED_HINT)
        return found


def _format_error(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
