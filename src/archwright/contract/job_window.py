"""Hours in which a job runs on machines that serve requests at other times."""

from archwright.contract.needs import Period
from archwright.contract.record import Record

HOURS_PER_DAY = 24


class JobWindow(Record):
    """The time of each day in which a job may run; it must have ended when the window closes.

    `job` is the pool's name of its purchase, `workload` its name in the needs. `every`: how often it runs, None if only
    once. `starts_h`: hour of the day in `time_zone`, a name of the tz database. `lasts_h`: hours until the window
    closes, perhaps on the next day. `run_h`: planned hours of the longest run. A run uses `accelerators` of a machine;
    0: its processors only. `pauses`: pools whose engines stop while the job runs, to free its machines.
    """

    job: str
    workload: str
    every: Period | None
    starts_h: float
    lasts_h: float
    run_h: float
    accelerators: int = 0
    time_zone: str = "Etc/UTC"
    pauses: tuple[str, ...] = ()

    @property
    def ends_h(self) -> float:
        """The local hour at which the window closes."""
        return (self.starts_h + self.lasts_h) % HOURS_PER_DAY

    @property
    def summary(self) -> str:
        """The window in words: "index runs each week, from 18:00 to 07:30 (Europe/Berlin), on machines ..."."""
        often = "once"
        if self.every is not None:
            often = f"each {self.every}"
        hours = f"from {format_hour(self.starts_h)} to {format_hour(self.ends_h)} ({self.time_zone})"
        text = f"{self.job} runs {often}, {hours}, on machines that serve by day"
        if self.pauses:
            text += f"; {', '.join(self.pauses)} stops meanwhile, at most {self.run_h:.1f} h"
        return text


def format_hour(hour: float) -> str:
    """Return an hour of the day as a clock shows it: 18.5 is 18:30."""
    minutes = int(hour * 60 + 0.5) % (HOURS_PER_DAY * 60)
    return f"{minutes // 60:02}:{minutes % 60:02}"
