"""Components that a bundle installs, from catalog/data/components.csv, and the pins of their images and models.

A pin is the exact thing that an object names: the digest of an image, the revision and the file digests of a model.
The catalog knows few of them. An unresolved pin is written so that nothing can start with it, and `verify` fails.
"""

from collections.abc import Iterator, Mapping
from datetime import date
from typing import Annotated, Any, TypeVar
from urllib.parse import urlsplit

from msgspec import Meta

from archwright.catalog.tables.records import Component
from archwright.contract.record import Record, replace

UNRESOLVED = "sha256:unresolved"
OWN_IMAGE = "archwright"
JOB_IMAGE = "archwright-jobs"
# Addresses of documentation (RFC 5737), which no network has.
PLACEHOLDER_PREFIX, PLACEHOLDER_NETWORK = "192.0.2.", "192.0.2.1/32"
# No resolver and no authority knows a name below `invalid` (RFC 6761).
PLACEHOLDER_HOST = "unresolved.invalid"
T = TypeVar("T")
# Users write pins, and scripts, units and images read them. A path stays in its folder.
_Reference = Annotated[str, Meta(pattern=r"^\w[\w.:/+-]*\Z")]
_Source = Annotated[str, Meta(pattern=r"^\w[\w.:/+-]*( [\w.+-]+){0,2}\Z")]
_Digest = Annotated[str, Meta(pattern=r"^(sha256:[0-9a-f]{64})?\Z")]
_Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
_Url = Annotated[str, Meta(pattern=r"^(https?://[\w.:/%~\[\]-]+)?\Z")]
_Network = Annotated[str, Meta(pattern=r"^(\d[\d.]*/\d{1,2}|[\da-f:]+/\d{1,3})?\Z")]
_Host = Annotated[str, Meta(pattern=r"^([a-z\d]([a-z\d-]*[a-z\d])?(\.[a-z\d]([a-z\d-]*[a-z\d])?)+)?\Z", max_length=253)]
_Object = Annotated[str, Meta(pattern=r"^([a-z\d]([a-z\d.-]*[a-z\d])?)?\Z")]
_Vault = Annotated[str, Meta(pattern=r"^(https://[\w.-]+/?|[a-z][a-z\d-]*)?\Z")]
_Place = Annotated[str, Meta(pattern=r"^(s3://\w[\w./-]*)?\Z")]
_Name = Annotated[str, Meta(pattern=r"^(?!-)[\w .:/+-]*\Z")]
BundlePath = Annotated[str, Meta(pattern=r"^(?![/-])(?!.*\.\.)[\w @.:/+-]+\Z")]


class UsedRows(dict[str, T]):
    """Rows of the catalog that templates look up by id. `used`: the ids that they read, for manifest and pins.

    Design: a template names a component where it installs it, and no list beside it can go stale.
    """

    def __init__(self, rows: Mapping[str, T]) -> None:
        super().__init__(rows)
        self.used: set[str] = set()

    def __getitem__(self, name: str) -> T:
        found = super().__getitem__(name)
        self.used.add(name)
        return found

    def get(self, name: str, default: Any = None) -> Any:
        if name not in self:
            return default
        return self[name]


class ImagePin(Record):
    """`reference` is the name with its tag; `digest` is "sha256:..." or empty until somebody resolves it."""

    reference: _Reference
    digest: _Digest = ""

    @property
    def pinned(self) -> str:
        """The reference for an object; it cannot be pulled while the digest is unresolved."""
        return f"{self.reference}@{self.digest or UNRESOLVED}"

    @property
    def command(self) -> str:
        """The command that prints the digest, on a machine with access to the registry."""
        return f"skopeo inspect --format '{{{{.Digest}}}}' docker://{self.reference}"


class ChartPin(Record):
    """A chart or manifest that install.sh installs: `source` as in the catalog, `digest` of the file it downloads."""

    source: _Source
    digest: _Digest = ""

    @property
    def pinned(self) -> str:
        """The digest for a script; nothing can be installed with it while it is unresolved."""
        return self.digest or UNRESOLVED

    @property
    def command(self) -> str:
        """The command that prints the digest, on a machine with access to the source."""
        words = self.source.split()
        if len(words) == 1:
            return f"curl -fsSL {self.source} | sha256sum"
        *repository, name, version = words
        chart = f"{name} --repo {repository[0]}" if repository else name
        return f"helm pull {chart} --version {version} && sha256sum *.tgz"


class ModelPin(Record):
    """The files of a model: `files` maps each file's name to its SHA-256, empty until somebody resolves them.

    `format` is that of the plan, `stored` that of the files, empty for 16 bits: an engine may convert at its start.
    """

    model: _Name
    repository: _Name = ""
    revision: _Name = ""
    files: dict[BundlePath, _Sha256] = {}
    format: _Name = ""
    stored: _Name = ""

    @property
    def is_converted(self) -> bool:
        """True if the engine converts files of 16 bits to eight bits when it loads them."""
        return self.format == "fp8" and not self.stored


class AdapterPin(ModelPin):
    """The files of a fine-tuned variant, empty until one is trained. `rank`: of its matrices, 0 if unknown."""

    rank: int = 0


class BackupPlace(Record):
    """The place of a cluster's backups: s3://BUCKET/PREFIX at an endpoint; an empty `place` is a volume of the cluster.

    `endpoint`, `region`: those of the S3 client; if empty, the client's own defaults apply.
    """

    place: _Place = ""
    endpoint: _Url = ""
    region: _Name = ""

    @property
    def port(self) -> int:
        url = urlsplit(self.endpoint)
        return url.port or {"http": 80}.get(url.scheme, 443)


class Pins(Record):
    """pins.json of a bundle. A user fills in what is empty; the next rendering keeps it.

    `adapters`: by pool and name, "POOL/NAME". `addresses`: URL of each pool that the gateway reaches outside its site.
    `load_balancers`: a free address of the front network of each own site that takes requests. The others are values of
    the gateway's site. `hosts`: the name by which users call it. `issuers`: a ClusterIssuer of cert-manager that users
    trust; empty: the authority of the bundle. `vaults`: where its cloud keeps secrets. `backups`: their place.
    """

    images: dict[str, ImagePin] = {}
    charts: dict[str, ChartPin] = {}
    models: dict[str, ModelPin] = {}
    adapters: dict[str, AdapterPin] = {}
    addresses: dict[str, _Url] = {}
    load_balancers: dict[str, _Network] = {}
    hosts: dict[str, _Host] = {}
    issuers: dict[str, _Object] = {}
    vaults: dict[str, _Vault] = {}
    backups: dict[str, BackupPlace] = {}

    def find_network(self, site: str) -> str:
        """Return the address of the load balancer of an own site, or one that `install.sh` refuses."""
        return self.load_balancers.get(site) or PLACEHOLDER_NETWORK

    def find_host(self, site: str) -> str:
        """Return the name by which users call the gateway of a site, or one that `install.sh` refuses."""
        return self.hosts.get(site) or PLACEHOLDER_HOST

    def find_vault(self, site: str) -> str:
        """Return where the cloud of a site keeps secrets, or a name that `install.sh` refuses."""
        return self.vaults.get(site) or f"https://{PLACEHOLDER_HOST}"

    def find_backup_place(self, site: str) -> BackupPlace:
        return self.backups.get(site, BackupPlace())


class OpenPin(Record):
    """A pin that is not resolved: `subject` is its kind and name; `command` prints what it needs."""

    subject: str
    problem: str
    command: str = ""


def list_open_pins(pins: Pins) -> list[OpenPin]:
    """Return what a bundle with these pins still lacks, by kind and name."""
    found = []
    for name, image in sorted(pins.images.items()):
        if not image.digest:
            problem = f"the digest of image {image.reference} is not resolved"
            found.append(OpenPin(subject=f"image {name}", problem=problem, command=image.command))
    for name, chart in sorted(pins.charts.items()):
        if not chart.digest:
            problem = f"the digest of {chart.source} is not resolved"
            found.append(OpenPin(subject=f"chart {name}", problem=problem, command=chart.command))
    for name, model in sorted(pins.models.items()):
        if not model.files:
            problem = f"the files of model {model.model} have no SHA-256"
            found.append(OpenPin(subject=f"model {name}", problem=problem, command="sha256sum FILES"))
    return [*found, *_list_open_addresses(pins)]


def _list_open_addresses(pins: Pins) -> Iterator[OpenPin]:
    for name, url in sorted(pins.addresses.items()):
        if not url:
            problem = f"the URL of pool {name} is not known; write it into pins.json"
            yield OpenPin(subject=f"address {name}", problem=problem)
    for site in sorted(pins.load_balancers):
        if pins.find_network(site).startswith(PLACEHOLDER_PREFIX):
            problem = (
                f"the load balancer of {site} has no address; write a free one into pins.json, such as 10.0.0.7/32"
            )
            yield OpenPin(subject=f"load balancer {site}", problem=problem)
    for site, host in pins.hosts.items():
        if not host:
            problem = f"the gateway of {site} has no host name; write it into `hosts` of pins.json"
            yield OpenPin(subject=f"host {site}", problem=problem)
    for site, vault in pins.vaults.items():
        if not vault:
            problem = f"the vault of {site} is not known; write it into `vaults` of pins.json"
            yield OpenPin(subject=f"vault {site}", problem=problem)


def merge_pins(wanted: Pins, known: Pins) -> Pins:
    """Return `wanted` with the digests that `known` holds for the same references, sources and models."""
    images = {
        name: known.images[name] if _is_same_image(pin, known.images.get(name)) else pin
        for name, pin in wanted.images.items()
    }
    charts = {
        name: known.charts[name] if _is_same_chart(pin, known.charts.get(name)) else pin
        for name, pin in wanted.charts.items()
    }
    models = {
        name: known.models[name] if _is_same_model(pin, known.models.get(name)) else pin
        for name, pin in wanted.models.items()
    }
    adapters = dict(wanted.adapters)
    for name, pin in known.adapters.items():
        if name in adapters:
            adapters[name] = pin
    return replace(known, images=images, charts=charts, models=models, adapters=adapters)


def _is_same_image(pin: ImagePin, known: ImagePin | None) -> bool:
    return known is not None and known.reference.rpartition(":")[2] == pin.reference.rpartition(":")[2]


def _is_same_chart(pin: ChartPin, known: ChartPin | None) -> bool:
    return known is not None and known.source == pin.source


def _is_same_model(pin: ModelPin, known: ModelPin | None) -> bool:
    if known is None or (pin.files and not known.files):
        return False
    if known.files:  # a user may have chosen another repository, but not for another format
        return known.model == pin.model and known.format == pin.format
    return known.model == pin.model and (not pin.repository or known.repository == pin.repository)


# A bundle says so if one of its pins is older.
STALE_MONTHS = 6


def list_age_notes(pinned: Mapping[str, str], rows: Mapping[str, Component], today: date) -> tuple[str, ...]:
    """Return what is old in a bundle: versions that the catalog has replaced, and facts read before STALE_MONTHS.

    `pinned` maps the id of each component to the version that the bundle installs.
    """
    return tuple(note for name, version in pinned.items() if (note := _describe_age(name, version, rows, today)))


def _describe_age(name: str, version: str, rows: Mapping[str, Component], today: date) -> str:
    row = rows.get(name)
    if row is None:
        return f"{name} {version}: the catalog does not have it any more"
    if row.version != version:
        return f"{row.product} {version}: the catalog has {row.version}; render again"
    read = date.fromisoformat(f"{row.as_of}-01" if len(row.as_of) == 7 else row.as_of)
    months = (today.year - read.year) * 12 + today.month - read.month
    return f"{row.product} {row.version}: read {months} months ago" if months > STALE_MONTHS else ""
