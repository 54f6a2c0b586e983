"""Commands of jobs, and the extras of archwright whose packages these commands import.

Training and refinement share their work by Ray; an index and the parsing of documents are the work of one machine.
"""

import shlex

from archwright.contract.plan import WorkloadPlan
from archwright.contract.record import Record, replace
from archwright.deploy.names import make_label

SPEC_FOLDER = "/etc/archwright/job"
# In the volume of the jobs: a folder of files for each data set.
INCOMING_FOLDER = "/var/lib/archwright/incoming"
LAKE_EXTRAS = ("lake", "predict")
SEVERAL_MACHINES_EXTRA = "ray"


class JobCommand(Record):
    """`lines`: command lines, each of which runs if those before it succeeded. `machines`: those that they use at once.

    `extras`: those that the image of the job installs. `prerequisite`: what must be true before the job starts.
    `file`: of the config map, or in `folder`; empty: the job has none.
    """

    lines: tuple[tuple[str, ...], ...]
    extras: tuple[str, ...]
    prerequisite: str
    machines: int = 1
    file: str = ""
    folder: str = SPEC_FOLDER

    def in_folder(self, folder: str) -> "JobCommand":
        """Return the command with its file in another folder."""
        lines = list[tuple[str, ...]]()
        for line in self.lines:
            words = tuple(word.replace(self.folder, folder) for word in line)
            lines.append(words)
        return replace(self, lines=tuple(lines), folder=folder)

    @property
    def words(self) -> tuple[str, ...]:
        if len(self.lines) == 1:
            return self.lines[0]
        return ("sh", "-c", self.text)

    @property
    def text(self) -> str:
        return " && ".join(shlex.join(line) for line in self.lines)


def choose_command(workload: WorkloadPlan | None, machines: int) -> JobCommand:
    """Return the command of a job that has so many machines at once; training, if an older plan states no kind."""
    if workload is None:
        return _follow_spec(("train",), "spec.yaml", ("train",), machines)
    # A label is a name of a data set, and no option of a command line.
    data_sets = [make_label(name) for name in workload.data or (workload.name,)]
    names = ", ".join(data_sets)
    match workload.kind:
        case "data-processing":
            return _follow_spec(("data", "refine"), "recipe.yaml", LAKE_EXTRAS, machines)
        case "embedding":
            indexes = tuple(("archwright", "data", "index", name) for name in data_sets)
            ready = f"the home of the jobs has the data sets: {names}"
            return JobCommand(lines=indexes, extras=LAKE_EXTRAS, prerequisite=ready)
        case "document-parsing":
            ingests = tuple(_ingest_folder(name) for name in data_sets)
            ready = f"the folder incoming in the volume of the jobs has the folders: {names}"
            return JobCommand(lines=ingests, extras=("documents",), prerequisite=ready)
        case _:
            return _follow_spec(("train",), "spec.yaml", ("train",), machines)


def _ingest_folder(name: str) -> tuple[str, ...]:
    return ("archwright", "data", "ingest", f"{INCOMING_FOLDER}/{name}", "--name", name)


def _follow_spec(verb: tuple[str, ...], file: str, extras: tuple[str, ...], machines: int) -> JobCommand:
    line = ("archwright", *verb, f"{SPEC_FOLDER}/{file}")
    if machines > 1:
        extras = (*extras, SEVERAL_MACHINES_EXTRA)
    ready = f"its config map has {file}"
    return JobCommand(lines=(line,), extras=extras, prerequisite=ready, machines=machines, file=file)
