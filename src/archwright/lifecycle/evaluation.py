"""`models evaluate`: evaluate a version and store the result; an interruption stores nothing."""

import secrets
import time
from collections.abc import Callable

from archwright.contract.lineage import Evaluation, ModelVersion
from archwright.home import Home
from archwright.lifecycle import classifier_evaluation, file_integrity, model_registry, text_evaluation
from archwright.store import Store


def evaluate_version(store: Store, home: Home, model: ModelVersion, tell: Callable[[str], None]) -> Evaluation:
    """Store scores and gates of a version; `tell` gets progress messages.

    A missing file is restored from its run. Raises ModelError AW-MOD-23 if the file was altered.
    """
    file_integrity.restore_files(store, home, model)
    model_registry.complete_edges(store, model)
    rival = model_registry.find_rival(store, model)
    if model.task == "text-lora":
        scores, gates = text_evaluation.evaluate_text_model(store, home, model, production=rival, tell=tell)
    else:
        tell(f"reading the held-out rows of {model.dataset_version}")
        scores, gates = classifier_evaluation.evaluate_classifier(store, home, model, production=rival)
    evaluation = Evaluation(
        id=f"e-{secrets.token_hex(4)}",
        at=time.time(),
        model=model.id,
        scores=scores,
        gates=gates,
        production=model_registry.get_id(rival),
    )
    store.append(model_registry.EVALUATIONS, [evaluation])
    return evaluation
