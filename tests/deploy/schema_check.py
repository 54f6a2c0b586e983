"""`python -m tests.deploy.schema_check DIR`: check every plan's clusters against the definitions in DIR/crds.

DIR is a folder of CustomResourceDefinitions, with examples/good and examples/broken that prove the check itself. Every
option of every template is rendered, and the chosen one for each target with a cluster; nothing of DIR is copied.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml
from tests.deploy.clusters import CLUSTER_TARGETS, craft_plans, read_clusters
from tests.deploy.object_rules import RULES, Item, check_labels, check_objects, check_security, read_objects, title
from tests.deploy.schemas import VERSIONS, CustomKinds, check_core
from tests.plan.conftest import MACHINE, NOW

from archwright import __version__
from archwright.catalog.catalog import Catalog
from archwright.catalog.load import load_catalog
from archwright.contract.plan import Plan
from archwright.deploy.render import find_target, render_bundle, select_option
from archwright.deploy.rendering.components import BackupPlace, Pins
from archwright.needs.reader import parse_needs
from archwright.needs.template import TEMPLATES, read_template
from archwright.plan.planner import make_plan

# Kinds without a definition in DIR, with the reason.
NO_SCHEMA = {
    "cloud.google.com/v1 ComputeClass": "GKE serves it and publishes no definition",
    "barmancloud.cnpg.io/v1 ObjectStore": "DIR does not have the definitions of the plugin of CloudNativePG",
    "gateway.envoyproxy.io/v1alpha1 EnvoyProxy": "DIR does not have the definitions of Envoy Gateway",
}

BACKUP_PLACE = BackupPlace(place="s3://company-backups/gateway", endpoint="https://s3.example.org:9000", region="eu-1")


def make_plans(catalog: Catalog) -> Iterator[tuple[str, Plan]]:
    for name in TEMPLATES:
        needs, source = parse_needs(read_template(name).encode(), "needs.yaml", catalog)
        plan = make_plan(needs, source, catalog, MACHINE, NOW)
        yield name, plan
        if name == "startup":
            yield from craft_plans(plan).items()


def render_clusters(catalog: Catalog) -> Iterator[tuple[str, list[Item]]]:
    """Yield each cluster with a name that says plan, target, option and folder."""
    for name, plan in make_plans(catalog):
        for target in map(find_target, CLUSTER_TARGETS):
            able = [one for one in plan.options if target.can_render(one)]
            if able and target.name != "kubernetes":
                able = [select_option(plan, target, None, name)]
            for option in able:
                bundle = render_bundle(plan, option, target, catalog, Pins(), __version__)
                if target.name == "kubernetes":  # the other targets have backups in a volume
                    pins = Pins(backups=dict.fromkeys(bundle.pins.backups, BACKUP_PLACE))
                    bundle = render_bundle(plan, option, target, catalog, pins, __version__)
                for folder, items in read_clusters(bundle):
                    yield f"{name} {target.name} {option.name} {folder}", items


def check_item(item: Item, kinds: CustomKinds) -> Iterator[str]:
    kind = f"{item.get('apiVersion')} {item.get('kind')}"
    if kinds.knows(item):
        yield from kinds.check(item)
    elif kinds.has_group(item):
        yield f"{kind} is not served by the pinned version"
    elif kind not in NO_SCHEMA:
        for version in VERSIONS:
            yield from check_core(item, version)


def check_file(path: Path, kinds: CustomKinds) -> list[str]:
    """Return the problems of a file of objects; labels and security are rules for our own objects only."""
    try:
        items = read_objects(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        return [str(error)]
    own = [rule for rule in RULES if rule not in (check_labels, check_security)]
    problems = [problem for item in items for problem in check_item(item, kinds)]
    return problems + [problem for rule in own for problem in rule(items)]


def main(folder: Path) -> int:
    kinds, problems = CustomKinds(folder / "crds"), list[str]()
    examples = folder / "examples"
    good, broken = sorted((examples / "good").glob("*.yaml")), sorted((examples / "broken").glob("*.yaml"))
    if not good or not broken:
        print(f"{examples} has no good or no broken examples, which prove this check", file=sys.stderr)
        return 2
    for path in good:
        problems += [
            f"{path.name}: {one}" for item in read_objects(path.read_text()) for one in check_item(item, kinds)
        ]
    problems += [f"{path.name} is broken, and the check accepts it" for path in broken if not check_file(path, kinds)]
    print(f"{len(good)} good and {len(broken)} broken example files")
    seen, clusters, counted = set[str](), 0, 0
    for name, items in render_clusters(load_catalog()):
        clusters, counted = clusters + 1, counted + len(items)
        problems += [f"{name}: {problem}" for problem in check_objects(items)]
        for item in items:
            mark = json.dumps(item, sort_keys=True, default=str)
            if mark not in seen:
                seen.add(mark)
                problems += [f"{name}: {title(item)}: {problem}" for problem in check_item(item, kinds)]
    print(f"{clusters} clusters with {counted} objects, {len(seen)} of them distinct; Kubernetes {', '.join(VERSIONS)}")
    print(f"CEL: {kinds.passed} rules held, {kinds.skipped} are about updates")
    print("\n".join(problems[:200]) or "no problem", file=sys.stderr if problems else sys.stdout)
    return 1 if problems else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m tests.deploy.schema_check DIR")
    sys.exit(main(Path(sys.argv[1])))
