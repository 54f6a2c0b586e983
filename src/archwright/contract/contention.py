"""Contention: what other programs and the hypervisor took of a machine while something was measured on it."""

from archwright.contract.record import Record


class Contention(Record):
    """The contention of one machine during a measurement; None stands for a figure that the system does not state.

    `other_share`: CPU time of programs other than the measured ones and the measuring one. `steal_share`: time that the
    hypervisor gave to other virtual machines. Both are shares of the CPU time of all processors, idle time included.
    `frequency_hz`: mean frequency of the processors while they work.
    """

    other_share: float | None = None
    steal_share: float | None = None
    frequency_hz: float | None = None
