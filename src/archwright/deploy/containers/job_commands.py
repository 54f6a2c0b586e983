"""Commands of jobs, and the extras of archwright whose packages these commands import."""

from archwright.contract.plan import WorkloadPlan
from archwright.contract.record import Record

SPEC_FOLDER = "/etc/archwright/job"
# In the volume of the jobs' home.
INCOMING_FOLDER = "/var/lib/archwright/incoming"
SEVERAL_MACHINES_EXTRA = "ray"


class JobCommand(Record):
    """`words`: the command line. `extras`: those that the image of the job installs. `machines`: those that it uses.

    `prerequisite`: what must be true before the job starts. `file`: of the config map; empty: the job has none.
    """

    words: tuple[str, ...]
    extras: tuple[str, ...]
    prerequisite: str
    machines: int = 1
    file: str = ""


def choose_command(workload: WorkloadPlan | None, machines: int) -> JobCommand:
    """Return the command of a job that has so many machines at once; training, if an older plan states no kind."""
    kind = None if workload is None else workload.kind
    if workload is None or kind not in ("embedding", "data-processing", "document-parsing"):
        return JobCommand(
            words=("archwright", "train", f"{SPEC_FOLDER}/spec.yaml"),
            extras=_add_ray("train", machines),
            prerequisite="its config map has spec.yaml",
            machines=machines,
            file="spec.yaml",
        )
    if kind == "data-processing":
        return JobCommand(
            words=("archwright", "data", "refine", f"{SPEC_FOLDER}/recipe.yaml"),
            extras=_add_ray("lake", machines),
            prerequisite="its config map has recipe.yaml",
            machines=machines,
            file="recipe.yaml",
        )
    dataset = workload.data[0] if workload.data else workload.name
    if kind == "embedding":
        words = ("archwright", "data", "index", dataset)
        ready = f"the data set {dataset} is in the home of the jobs"
        return JobCommand(words=words, extras=("lake", "predict"), prerequisite=ready)
    command = ("archwright", "data", "ingest", INCOMING_FOLDER, "--name", dataset)
    ready = "the folder incoming in the home of the jobs has the files"
    return JobCommand(words=command, extras=("documents",), prerequisite=ready)


def _add_ray(extra: str, machines: int) -> tuple[str, ...]:
    return (extra,) if machines == 1 else (extra, SEVERAL_MACHINES_EXTRA)
