"""The verbs of the shell: one row each, named after its public function.

Rows are data, so `--help` imports no other package. A test compares every row with its function's signature.

A help text is a noun phrase with its default, unit and "(repeatable)".
"""

from __future__ import annotations

from archwright.cli.access_verbs import ACCESS_VERBS
from archwright.cli.catalog_verbs import CATALOG_VERBS
from archwright.cli.data_verbs import DATA_VERBS
from archwright.cli.model_verbs import MODEL_VERBS
from archwright.cli.sizing_verbs import SIZING_VERBS
from archwright.cli.train_verbs import TRAIN_VERBS
from archwright.cli.verb_spec import Arg, Verb, require_positional

PLAN_FILE = require_positional("plan", "plan.json to read")

VERBS: tuple[Verb, ...] = (
    Verb(
        "init",
        "write a needs.yaml from a template",
        (
            Arg("template", "template: desk (default), startup, clinic or manufacturer", default="desk"),
            Arg("output", "file to write (default: needs.yaml)", default="needs.yaml", short="-o"),
        ),
        "print_path",
    ),
    Verb(
        "plan",
        "choose, size and price a platform for a needs file",
        (
            require_positional("needs", "needs file to plan for", metavar="needs.yaml"),
            Arg("output", "file for the plan, in addition to the summary", short="-o", metavar="plan.json"),
            Arg(
                "what_if",
                "needs field to change; compares the plan with and without the change (repeatable)",
                "texts",
                metavar="KEY=VALUE",
            ),
            Arg("accept_stale", "use of expired prices for purchases (default: refused)", "flag"),
            Arg(
                "best_effort",
                "nearest option that misses only service levels and budgets, if no option is feasible",
                "flag",
            ),
        ),
        "show_plan.print_plan",
    ),
    Verb(
        "explain",
        "explain the choice of a plan, or a part of it",
        (
            PLAN_FILE,
            Arg(
                "thing",
                "option, workload, pool, prediction, metric, cost line, driver, section, control, basis (default: all)",
                positional=True,
            ),
        ),
        "print_text",
    ),
    Verb(
        "diff",
        "compare two plans: differences and causes",
        (
            require_positional("before", "first plan.json", metavar="A.json"),
            require_positional("after", "second plan.json", metavar="B.json"),
        ),
        "show_diff.print_diff",
    ),
    Verb(
        "up",
        "start a plan on this machine",
        (
            Arg(
                "source",
                "plan.json or needs.yaml (default: one of these in the folder, else the built-in desk example)",
                positional=True,
            ),
            Arg("detach", "background mode: return when the platform is ready", "flag"),
            Arg("port", "port of the gateway; 0: any free port (default: 8470)", "integer"),
            Arg("engine", "URL of an engine that already serves this pool (repeatable)", "texts", metavar="POOL=URL"),
            Arg(
                "key_env",
                "environment variable with the key of the engines of this pool (repeatable)",
                "texts",
                metavar="POOL=NAME",
            ),
        ),
        "print_platform",
    ),
    Verb(
        "serve",
        "start only the gateway, in front of engines that run already",
        (
            Arg(
                "upstream",
                "URL of an engine that serves this model (repeatable)",
                "texts",
                of="options",
                metavar="M=URL",
            ),
            Arg("port", "port of the gateway; 0: any free port (default: 8470)", "integer", of="options"),
            Arg("workers", "number of worker processes, 1 to 64 (default: 1)", "integer", default=1, of="options"),
            Arg(
                "price",
                "price in USD per million input and output tokens (repeatable)",
                "texts",
                of="options",
                metavar="MODEL=IN:OUT",
            ),
            Arg(
                "key_env",
                "environment variable with the key of the upstream (repeatable)",
                "texts",
                of="options",
                metavar="MODEL=NAME",
            ),
            Arg("host", "address of the gateway; needs TLS unless loopback (default: 127.0.0.1)", of="options"),
            Arg("cache", "cached responses: off (default), deterministic or all", default="off", of="options"),
            Arg(
                "admin_port",
                "port of the administration interface; 0: no interface (default: 0)",
                "integer",
                of="options",
            ),
        ),
        "show_serve.print_serving",
    ),
    Verb("status", "show the processes of the platform", (), "print_status"),
    Verb(
        "down",
        "stop the platform",
        (Arg("dry_run", "list of the processes to stop, without a change", "flag"),),
        "print_stopped",
    ),
    Verb("doctor", "check the requirements of `up` on this machine", (), "print_checks"),
    Verb(
        "ask",
        "ask the running platform a question",
        (
            require_positional("question", "question to ask"),
            Arg("model", "model or workload (default: the first workload)"),
            Arg("max_tokens", "longest answer, in tokens (default: the limit of the endpoint)", "integer"),
        ),
        "print_stream",
    ),
    Verb(
        "bench",
        "replay a plan's traffic at an OpenAI-compatible URL and measure it",
        (
            Arg("url", "URL that ends in /v1 (default: the running platform)", positional=True),
            Arg(
                "against",
                "plan with the traffic and the predictions (default: the running plan, else plan.json)",
                metavar="plan.json",
            ),
            Arg("key_env", "environment variable with the key of the endpoint (default: no key)", metavar="NAME"),
            Arg("model", "name of the model at the endpoint (default: as in the plan)"),
        ),
        "print_bench",
    ),
    Verb(
        "reconcile",
        "compare every prediction of a plan with its measurement",
        (
            Arg(
                "plan",
                "plan.json to compare (default: the running plan, else plan.json of the folder)",
                positional=True,
            ),
            Arg(
                "prometheus",
                "Prometheus to read the measurements from (default: the records of the platform)",
                metavar="URL",
            ),
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
        "show requests, tokens and cost by tenant, key, user, model or day",
        (
            Arg("tenant", "tenant to show (default: all)"),
            Arg(
                "by",
                "groups, joined by commas: tenant, key, user, model, day (default: tenant,model)",
                default="tenant,model",
                metavar="WORDS",
            ),
        ),
        "print_table",
    ),
    Verb(
        "audit list",
        "list access decisions and administrative acts",
        (
            Arg("tenant", "tenant to show (default: all)"),
            Arg("limit", "newest records to show (default: 50)", "integer", default=50),
        ),
        "print_table",
    ),
    Verb("audit verify", "verify the chain of audit records"),
    *CATALOG_VERBS,
    Verb("settings", "show each setting and its source", (), "print_table"),
)

GROUPS: dict[str, str] = {
    "predict": "predict a deployment or a training run, with uncertainty bands",
    "data": "data sets and their versions",
    "runs": "training runs",
    "models": "model files, versions and production",
    "tenant": "tenants",
    "user": "users of tenants",
    "key": "keys",
    "audit": "audit records",
    "catalog": "facts and their sources",
}
