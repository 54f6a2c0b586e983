"""Render an option of a plan for a target: choose the option, build its deployment, expand the target's templates."""

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import cast

import msgspec
import yaml

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.records import Component
from archwright.contract.plan import Option, Plan
from archwright.contract.record import Record, replace
from archwright.deploy.backup_jobs import list_backup_jobs
from archwright.deploy.cluster.cloud_site import list_cloud_sites
from archwright.deploy.cluster.conformance import assess_conformance
from archwright.deploy.cluster.gitops import build_gitops_examples
from archwright.deploy.cluster.load_balancer import build_load_balancer, list_entrances
from archwright.deploy.cluster.log_retention import find_log_retention
from archwright.deploy.cluster.node_pools import build_capacity
from archwright.deploy.cluster.site_values import find_secret_vault, list_site_values
from archwright.deploy.cluster.validation import build_validation
from archwright.deploy.containers.engine_adapters import name_adapter_pin
from archwright.deploy.containers.engine_containers import choose_image, find_adapter_row, find_draft, name_draft
from archwright.deploy.containers.engine_layout import list_engines
from archwright.deploy.containers.gateway_container import GatewayContainer, build_gateway
from archwright.deploy.containers.night_jobs import list_night_jobs, mute_alerts
from archwright.deploy.deployment import Deployment, build_deployment
from archwright.deploy.hosts.rack_layout import SiteLayout, lay_out_sites, list_bill, list_hosts
from archwright.deploy.hosts.systemd import build_units
from archwright.deploy.monitoring.monitored import build_monitoring
from archwright.deploy.rendering.bundle import (
    FileBundle,
    complete_kustomizations,
    compose_files,
    compose_pin_files,
)
from archwright.deploy.rendering.components import (
    JOB_IMAGE,
    OWN_IMAGE,
    AdapterPin,
    ChartPin,
    ImagePin,
    ModelPin,
    Pins,
    UsedRows,
    merge_pins,
)
from archwright.deploy.rendering.environment import check_environment, name_environment
from archwright.deploy.rendering.templating import RenderedObject, expand_templates
from archwright.errors import ErrorLocation, PlanError, UsageError

# How an organisation pays its own machines; other kinds are rented.
OWN_KINDS = ("bought", "owned")
# Plants have machines without a cluster.
PLANT_TARGET, PLANT_FOLDER = "systemd", "plants"
# Bundles with objects of this template folder have a check-list of conformance.
ASSESSED_FOLDER = "kubernetes"


class Target(Record):
    """A row of targets.yaml. `environment`: empty for the only one of a plan; it stands in no row."""

    name: str
    title: str
    places: tuple[str, ...]
    folders: dict[str, str]
    engine_url: str = ""
    one_machine: bool = False
    images: bool = True
    environment: str = ""

    def can_render(self, option: Option) -> bool:
        """True if the option has machines at a place of this target."""
        places = {place for pool in option.pools for place in (pool.placement, pool.provider)}
        if option.placement == "hybrid" and any(one.kind not in OWN_KINDS for one in option.purchases):
            places.add(option.provider)
        if not places & set(self.places):
            return False
        return not self.one_machine or _is_one_machine(option)


def _is_one_machine(option: Option) -> bool:
    if len({(pool.provider, pool.region, pool.machine) for pool in option.pools}) > 1:
        return False
    peaks = {one.machine: 0 for one in option.purchases}
    for one in option.purchases:
        peaks[one.machine] = max(peaks[one.machine], one.peak) if one.shared_with else peaks[one.machine] + one.peak
    return sum(peaks.values()) <= 1


@functools.cache
def list_targets() -> tuple[Target, ...]:
    rows = yaml.load(Path(__file__).with_name("targets.yaml").read_bytes(), yaml.CSafeLoader)
    return msgspec.convert(rows, tuple[Target, ...])


def find_target(name: str, environment: str = "") -> Target:
    """Return a target, for an environment of a plan if it has several.

    Raises UsageError AW-USE-76 for an unknown target, -98 for an environment that it cannot have.
    """
    found = next((target for target in list_targets() if target.name == name), None)
    if found is None:
        names = tuple(target.name for target in list_targets())
        hint = f"use one of {', '.join(names)}"
        raise UsageError("AW-USE-76", f"there is no target {name!r}", hint=hint, nearest=names)
    if environment:
        check_environment(environment, name, has_cluster=ASSESSED_FOLDER in found.folders)
    return replace(found, environment=environment)


def select_option(plan: Plan, target: Target, name: str | None, file: str) -> Option:
    """Return the named option, else the chosen one, else the cheapest feasible one that the target can render.

    Raises UsageError AW-USE-77 (no such option), PlanError AW-PLAN-22 (the target cannot render it, or any).
    """
    able = [option for option in plan.options if target.can_render(option)]
    named = [option for option in plan.options if option.name == name]
    if name is not None and not named:
        names = tuple(option.name for option in plan.options)
        hint = f"use one of {', '.join(names)}"
        where = ErrorLocation(file)
        raise UsageError("AW-USE-77", f"the plan has no option {name!r}", where=where, hint=hint, nearest=names)
    for option in named or able:
        if option not in able:
            raise _cannot_render(plan, target, file, f"option {option.name} has no machines for target {target.name}")
        if option.name in (name, plan.chosen):
            return option
    ranked = sorted(able, key=lambda one: (not one.feasible, one.total_cost.value if one.total_cost else 0.0))
    if not ranked:
        raise _cannot_render(plan, target, file, f"the plan has no option for target {target.name} ({target.title})")
    return ranked[0]


def _cannot_render(plan: Plan, target: Target, file: str, message: str) -> PlanError:
    able = [f"{one.name} ({', '.join(t.name for t in _list_able_targets(one)) or 'no target'})" for one in plan.options]
    hint = f"the plan has: {'; '.join(able) or 'no option'}"
    return PlanError("AW-PLAN-22", message, where=ErrorLocation(file, None, "placement.allow"), hint=hint)


def _list_able_targets(option: Option) -> list[Target]:
    return [target for target in list_targets() if target.can_render(option)]


def render_bundle(
    plan: Plan, option: Option, target: Target, catalog: Catalog, known: Pins, version: str
) -> FileBundle:
    """Return the files of the target. `known`: pins that a user resolved in the folder."""
    components = UsedRows(catalog.components)
    pins = merge_pins(_list_pins(option, catalog, version), known)
    images = UsedRows({name: pin.pinned for name, pin in pins.images.items()})
    deployment = build_deployment(plan, option, catalog, images, version, pins)
    if target.environment:
        deployment = deployment.for_environment(target.environment)
    for one in deployment.pools if target.images else ():
        components.get(one.container.component if one.container is not None else "")
    charts = UsedRows({name: pin.pinned for name, pin in pins.charts.items()})
    context = build_context(deployment.cluster_part, target, catalog, components, pins, images)
    context |= {"charts": charts, "layouts": lay_out_sites(deployment, catalog), "plants": deployment.plants}
    context["bill"] = list_bill(deployment, cast(tuple[SiteLayout, ...], context["layouts"]))
    gateway = cast(GatewayContainer, context["gateway"])
    objects = [one for folder, prefix in target.folders.items() for one in _expand_folder(folder, prefix, context)]
    for plant in deployment.plants:
        objects += _render_plant(
            plant, build_context(plant, find_target(PLANT_TARGET), catalog, components, pins, images)
        )
    if target.environment:
        objects = name_environment(objects, target.environment)
    used = components.used | (images.used if target.images else set())
    named = {name: pin for name, pin in pins.images.items() if target.images and name in images.used}
    external = {pool.pool.name for pool in deployment.pools if pool.url} & pins.addresses.keys()
    addresses = {pool: pins.addresses.get(pool, "") for pool in (*gateway.open_addresses, *sorted(external))}
    installed = {name: pin for name, pin in pins.charts.items() if name in charts.used}
    site_values = Pins()
    if ASSESSED_FOLDER in target.folders:
        site_values = list_site_values(deployment.cluster_part, pins)
    pins = replace(
        site_values,
        images=named,
        charts=installed,
        models=pins.models,
        adapters=pins.adapters,
        addresses=addresses,
    )
    return FileBundle(
        target=target.name,
        option=option.name,
        plan_digest=plan.digest,
        environment=target.environment,
        files={**compose_files(objects), **compose_pin_files(pins)},
        components={name: one.version for name, one in catalog.components.items() if name in used},
        pins=pins,
    )


def _render_plant(plant: Deployment, context: Mapping[str, object]) -> Iterator[RenderedObject]:
    """Yield the files of one machine of a plant, for all of them."""
    for folder, prefix in find_target(PLANT_TARGET).folders.items():
        yield from _expand_folder(folder, str(PurePosixPath(PLANT_FOLDER, plant.main_site.name, prefix)), context)


def _expand_folder(folder: str, prefix: str, context: Mapping[str, object]) -> Iterator[RenderedObject]:
    objects = list(expand_templates(folder, context))
    if folder == ASSESSED_FOLDER:
        objects.append(assess_conformance(objects))
        objects += build_gitops_examples(objects, prefix)
    for one in complete_kustomizations(objects):
        yield one if prefix == "." else one._replace(file=f"{prefix}/{one.file}")


def build_context(
    deployment: Deployment,
    target: Target,
    catalog: Catalog,
    components: Mapping[str, Component],
    pins: Pins,
    images: Mapping[str, str],
) -> dict[str, object]:
    """Return the names that templates use."""
    night_jobs = list_night_jobs(deployment)
    context: dict[str, object] = {
        "deployment": deployment,
        "plan": deployment.plan,
        # Text, since the providers of Terraform name major versions by text.
        "database_version": catalog.components["postgresql"].version.partition(".")[0],
        "plan_text": msgspec.json.encode(deployment.plan, order="sorted").decode(),
        "option": deployment.option,
        "sites": deployment.sites,
        "site": deployment.main_site,
        "pools": deployment.pools,
        "engines": list_engines(deployment),
        "night_jobs": night_jobs,
        "muted_alerts": tuple(mute_alerts(night_jobs)),
        "gateway": build_gateway(deployment, target.engine_url, pins.addresses),
        "units": build_units(deployment) if target.name == "systemd" else None,
        "backup_jobs": list_backup_jobs(),
        "backup_place": pins.find_backup_place(deployment.main_site.name),
        "components": components,
        "clouds": list_cloud_sites(deployment, catalog),
        "load_balancer": build_load_balancer(deployment, deployment.main_site),
        "entrances": list_entrances(deployment, pins.find_host(deployment.main_site.name)),
        "secret_vault": find_secret_vault(deployment.main_site.place),
        "log_retention": find_log_retention(deployment.plan),
        "per_usd": catalog.exchange_rate("USD", deployment.plan.currency).value,
        "capacity": build_capacity(deployment),
        "validation": build_validation(deployment, catalog),
        "images": images,
        "pins": pins,
        "target": target,
        "hosts": list_hosts(deployment.main_site),
        "root_of_scripts": _find_root(target),
    }
    return {**context, "monitoring": build_monitoring(context, deployment, catalog, target.engine_url)}


def _find_root(target: Target) -> str:
    """Return the path from the script of a site's operators to the root of the bundle, where its pins are."""
    inside = target.folders.get(ASSESSED_FOLDER, ".")
    return "../.." if inside == "." else "../../.."


def _list_pins(option: Option, catalog: Catalog, version: str) -> Pins:
    rows = catalog.components.values()
    images = {one.id: ImagePin(reference=one.image, digest=one.digest) for one in rows if one.image}
    charts = {one.id: ChartPin(source=one.install) for one in rows if one.install}
    images |= {name: ImagePin(reference=f"{name}:{version}") for name in (OWN_IMAGE, JOB_IMAGE)}
    models = {}
    adapters = dict[str, AdapterPin]()
    for pool in option.pools:
        if pool.kind == "predict":
            continue  # its models are trained and promoted at its site: no file has a digest before
        hub = catalog.hub_models.get(pool.model)
        file = pool.artefact if pool.artefact is not None and pool.artefact.sha256 else None
        models[pool.name] = ModelPin(
            model=pool.model,
            # A file of this machine is not a file of the maker's repository.
            repository=hub.repository if hub is not None and file is None else "",
            format=pool.quantisation,
            stored=catalog.models[pool.model].published_format if pool.model in catalog.models else "",
            files={f"{file.name}.{file.form}": file.sha256} if file is not None else {},
        )
        if draft := find_draft(pool):
            models[name_draft(pool)] = ModelPin(model=draft, repository=draft)
        for adapter in find_adapter_row(pool.launch.engine).list_folders(pool):
            adapters[name_adapter_pin(pool, adapter)] = AdapterPin(model=adapter)
        image, is_own = choose_image(pool, catalog)
        if is_own:
            images[image] = ImagePin(reference=f"{image}:unstated")
    return Pins(images=images, charts=charts, models=models, adapters=adapters)
