"""Commands of jobs, and the extras of archwright whose packages these commands import."""

from archwright.contract.record import Record

SPEC_FOLDER = "/etc/archwright/job"
SEVERAL_MACHINES_EXTRA = "ray"


class JobCommand(Record):
    """`words`: the command line. `extras`: those that the image of the job installs."""

    words: tuple[str, ...]
    extras: tuple[str, ...]


def choose_command(machines: int) -> JobCommand:
    """Return the command of a job that runs on so many machines at once."""
    words = ("archwright", "train", f"{SPEC_FOLDER}/spec.yaml")
    extras = ("train",) if machines == 1 else ("train", SEVERAL_MACHINES_EXTRA)
    return JobCommand(words=words, extras=extras)
