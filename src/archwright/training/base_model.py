"""The dequantised copy of a base model: made once, stored under the digest of the quantised file.

Transformers reads a quantised file in 17 s, the copy in 1 s. The copy is float32, so that evaluation has the engine's
numbers; training loads it as bfloat16. A separate process makes the copy, so that its memory does not add to training.
"""

import fcntl
import subprocess
import warnings
from pathlib import Path
from typing import Any

from archwright.engines.model_files import missing_model_error
from archwright.errors import ErrorLocation, MissingError, TrainError, from_os_error, require_extra
from archwright.home import Home
from archwright.python_process import build_module_command
from archwright.settings import child_environment
from archwright.training import atomic_directory

OFFLINE_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # Steps differ in length, and a compiled kernel is cached for each length: 200 MB after 40 steps (measured).
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64",
}
"""For every process that uses transformers: no network, no tokenizer threads, no growth of memory per step."""
CONVERSION_TIMEOUT_S = 1800.0


def is_prepared(home: Home, sha256: str) -> bool:
    """True if the copy exists; `prepare_base` also checks it."""
    return home.dequantised_base(sha256).is_dir()


def prepare_base(home: Home, sha256: str, model: str = "") -> Path:
    """The folder of the copy, which is made if it is missing or damaged; concurrent processes wait for it.

    `model` is the name in errors. Raises MissingError AW-GET-02 (no model file), AW-GET-04 (damaged), AW-GET-01 (a
    package), TrainError AW-TRN-31 (not convertible), OperateError AW-OPS-01 (disk full).
    """
    target = home.dequantised_base(sha256)
    with open(target.parent / ".lock", "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.is_dir() or atomic_directory.find_damage(target):
            source = home.model(sha256)
            _check_digest(source, sha256, model)
            atomic_directory.write_directory(target, lambda folder: _run_dequantisation(source, folder, model))
    return target


def load_base(folder: Path, dtype: str) -> tuple[Any, Any]:
    """Model and tokenizer from a prepared folder; `dtype` is bfloat16 or float32."""
    with require_extra("train", "training a language model"):
        import torch  # noqa: PLC0415
        import transformers  # noqa: PLC0415
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    with warnings.catch_warnings():
        # Deprecations inside transformers.
        warnings.simplefilter("ignore")
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=getattr(torch, dtype), local_files_only=True, use_safetensors=True
        )
    return model.train(False), tokenizer


def _check_digest(source: Path, sha256: str, model: str) -> None:
    try:
        found = atomic_directory.compute_digest(source)
    except FileNotFoundError as error:
        raise missing_model_error(model or sha256[:12], source) from error
    except OSError as error:
        raise from_os_error(error) from error
    if found != sha256:
        hint = f"remove the file, then run: archwright models fetch {model}".rstrip()
        message = f"the file of model {model} is damaged"
        raise MissingError("AW-GET-04", message, where=ErrorLocation(str(source)), hint=hint)


def _run_dequantisation(source: Path, folder: Path, model: str) -> None:
    argv = build_module_command("archwright.training.dequantisation", str(source), str(folder))
    environment = child_environment({**OFFLINE_ENVIRONMENT, "OMP_NUM_THREADS": "1"})
    # The child ends when its standard input closes, so it does not outlive this process.
    pipe, null = subprocess.PIPE, subprocess.DEVNULL
    with subprocess.Popen(argv, stdin=pipe, stdout=null, stderr=pipe, env=environment) as child:
        try:
            assert child.stderr is not None
            output = child.stderr.read().decode(errors="replace")
            status = child.wait(CONVERSION_TIMEOUT_S)
        except BaseException:
            child.kill()
            raise
    if status != 0:
        last = [line.strip() for line in output.splitlines() if line.strip()]
        reason = last[-1] if last else f"it ended with status {status}"
        if "No space left" in output:
            raise from_os_error(OSError(28, "No space left on device", str(folder.parent)))
        message = f"the base {model or source.name} cannot be dequantised: {reason[:300]}"
        hint = "choose a base of an architecture that transformers reads from GGUF (llama, qwen2, ...)"
        raise TrainError("AW-TRN-31", message, where=ErrorLocation(str(source)), hint=hint)
