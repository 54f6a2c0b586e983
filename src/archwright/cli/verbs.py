"""The verbs of the shell: one row each, naming the public function it mirrors.

A row is data, so that `--help` imports nothing of ours; a test holds every row against its function's signature.
"""

from __future__ import annotations

from archwright.cli.access_verbs import ACCESS_VERBS
from archwright.cli.catalog_verbs import CATALOG_VERBS
from archwright.cli.data_verbs import DATA_VERBS
from archwright.cli.model_verbs import MODEL_VERBS
from archwright.cli.sizing_verbs import SIZING_VERBS
from archwright.cli.train_verbs import TRAIN_VERBS
from archwright.cli.verb_spec import Arg, Verb, require_positional

PLAN_FILE = require_positional("plan", "a plan.json")

VERBS: tuple[Verb, ...] = (
    Verb(
        "init",
        "write a needs.yaml to start from",
        (
            Arg("template", "desk, startup, clinic or manufacturer", default="desk"),
            Arg("output", "file to write", default="needs.yaml", short="-o"),
        ),
        "print_path",
    ),
    Verb(
        "plan",
        "choose, size and price a platform for a needs file",
        (
            require_positional("needs", "the needs file", metavar="needs.yaml"),
            Arg("output", "also write the plan there", short="-o", metavar="plan.json"),
            Arg("what_if", "the plan with a field changed, and what that changes", "texts", metavar="KEY=VALUE"),
            Arg("accept_stale", "advise buying even by prices that have expired", "flag"),
            Arg(
                "best_effort", "nearest option that misses only service levels and budgets, if none is feasible", "flag"
            ),
        ),
        "show_plan.print_plan",
    ),
    Verb(
        "explain",
        "why a plan is as it is",
        (
            PLAN_FILE,
            Arg(
                "thing",
                "an option, workload, pool, prediction, metric, cost line, driver, section, control or basis",
                positional=True,
            ),
        ),
        "print_text",
    ),
    Verb(
        "diff",
        "what changed between two plans, and why",
        (
            require_positional("before", "a plan.json", metavar="A.json"),
            require_positional("after", "another", metavar="B.json"),
        ),
        "show_diff.print_diff",
    ),
    Verb(
        "up",
        "bring a plan up on this machine",
        (
            Arg("source", "a plan.json or needs.yaml; else the folder's, else the desk", positional=True),
            Arg("detach", "return when it is ready; it goes on in the background", "flag"),
            Arg("port", "where the gateway listens, 0 for any free port", "integer"),
            Arg(
                "engine", "a pool of the plan and where its engines answer; again for more", "texts", metavar="POOL=URL"
            ),
            Arg("key_env", "the variable that holds those engines' own key", "texts", metavar="POOL=NAME"),
        ),
        "print_platform",
    ),
    Verb(
        "serve",
        "the gateway alone, in front of engines that are already there",
        (
            Arg(
                "upstream",
                "a model and the URL that answers it; again for more",
                "texts",
                of="options",
                metavar="M=URL",
            ),
            Arg("port", "where it listens, 0 for any free port", "integer", of="options"),
            Arg("workers", "processes that share the work", "integer", default=1, of="options"),
            Arg("price", "USD per million tokens, in and out", "texts", of="options", metavar="MODEL=IN:OUT"),
            Arg(
                "key_env", "the variable that holds the upstream's own key", "texts", of="options", metavar="MODEL=NAME"
            ),
            Arg("host", "address to listen on; other than loopback needs TLS", of="options"),
            Arg("cache", "answers given again: off, deterministic or all", default="off", of="options"),
            Arg("admin_port", "where the administration interface listens", "integer", of="options"),
        ),
        "show_serve.print_serving",
    ),
    Verb("status", "what runs", (), "print_status"),
    Verb(
        "down", "take the platform down", (Arg("dry_run", "only say what would be stopped", "flag"),), "print_stopped"
    ),
    Verb("doctor", "check what this machine has and lacks", (), "print_checks"),
    Verb(
        "ask",
        "ask the running platform a question",
        (
            require_positional("question", "the question"),
            Arg("model", "a model or workload; default: the first"),
            Arg("max_tokens", "longest answer in tokens", "integer"),
        ),
        "print_stream",
    ),
    Verb(
        "bench",
        "drive a plan's traffic at an OpenAI-compatible URL and measure",
        (
            Arg("url", "ends in /v1; default: the running platform", positional=True),
            Arg("against", "the plan whose traffic and predictions count", metavar="plan.json"),
            Arg("key_env", "the variable that holds the endpoint's key", metavar="NAME"),
            Arg("model", "the model's name at the endpoint"),
        ),
        "print_bench",
    ),
    Verb(
        "reconcile",
        "hold every prediction of a plan against its measurement",
        (
            Arg("plan", "a plan.json; default: the running plan, else plan.json", positional=True),
            Arg("prometheus", "read the measurements from this Prometheus", metavar="URL"),
        ),
        "print_reconciliation",
    ),
    Verb(
        "report",
        "write a plan as one document for business and engineers",
        (PLAN_FILE, Arg("output", "file to write: .html, .pdf or .xlsx", required=True, short="-o", metavar="FILE")),
        "print_path",
    ),
    *SIZING_VERBS,
    *DATA_VERBS,
    *TRAIN_VERBS,
    *MODEL_VERBS,
    *ACCESS_VERBS,
    Verb(
        "usage",
        "requests, tokens and money: by tenant, key, user, model, day",
        (
            Arg("tenant", "only this tenant's"),
            Arg("by", "what is told apart, joined by commas", default="tenant,model", metavar="WORDS"),
        ),
        "print_table",
    ),
    Verb(
        "audit list",
        "access decisions and administrative acts",
        (Arg("tenant", "only this tenant's"), Arg("limit", "newest first", "integer", default=50)),
        "print_table",
    ),
    Verb("audit verify", "check the chain of audit records"),
    *CATALOG_VERBS,
    Verb("settings", "each setting and where it came from", (), "print_table"),
)

GROUPS: dict[str, str] = {
    "predict": "what a deployment or a training run would do, with bands",
    "data": "data sets and their versions",
    "runs": "training runs",
    "models": "model files, versions, and what is in production",
    "tenant": "tenants",
    "user": "users of tenants",
    "key": "keys",
    "audit": "audit records",
    "catalog": "facts and their sources",
}
