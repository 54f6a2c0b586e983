"""The context entry `monitoring`: what is watched, with rule groups and dashboards of a deployment."""

from collections.abc import Mapping

from archwright.catalog.catalog import Catalog
from archwright.contract.metrics import FAILED_STATUSES, METRICS
from archwright.contract.record import Record
from archwright.deploy.deployment import Deployment
from archwright.deploy.monitoring.dashboards import Dashboard, build_dashboards
from archwright.deploy.monitoring.rules import RuleGroup, build_rule_groups
from archwright.deploy.monitoring.watched import BURN_RATES, WINDOWS, Watched, collect_watched

# An alert reaches its receiver within 90 s: scrape, evaluation, `for` of 30 s, and the wait of a group of alerts.
SCRAPE_S, EVALUATION_S, GROUP_WAIT_S = 10, 10, 10
# While the source fires, alerts of these names (separated by "|") with equal labels are silent.
INHIBITIONS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("GatewayDown", "ErrorBudgetBurn|GatewaySeriesAbsent|PredictionOutsideBand|QueueAbovePlan", ()),
    ("EngineDown", "EngineSeriesAbsent|QueueAbovePlan", ("pool",)),
    ("LoadAbovePlan", "PredictionOutsideBand", ("workload",)),
)


class Monitoring(Record):
    """Names of templates that package monitoring; times are in seconds."""

    watched: Watched
    groups: tuple[RuleGroup, ...]
    dashboards: tuple[Dashboard, ...]
    inhibitions: tuple[tuple[str, str, tuple[str, ...]], ...] = INHIBITIONS
    scrape_s: int = SCRAPE_S
    evaluation_s: int = EVALUATION_S
    group_wait_s: int = GROUP_WAIT_S


def build_scope(context: Mapping[str, object], watched: Watched) -> dict[str, object]:
    """Return the names that rules and panels use. `m`: our series by quantity."""
    return {
        **context,
        "watched": watched,
        "m": {metric.quantity: metric.name for metric in METRICS},
        "failed": "|".join(FAILED_STATUSES),
        "rates": BURN_RATES,
        "windows": WINDOWS,
        "month_h": 730,
    }


def build_monitoring(
    context: Mapping[str, object], deployment: Deployment, catalog: Catalog, engine_url: str
) -> Monitoring:
    """Return the monitoring of a deployment. `context`: the other names that templates use."""
    watched = collect_watched(deployment, catalog, engine_url)
    scope = build_scope(context, watched)
    return Monitoring(
        watched=watched, groups=build_rule_groups(scope), dashboards=build_dashboards(scope, deployment.name)
    )
