"""Contention: what other programs and the hypervisor took of a machine while something was measured on it."""

from archwright.contract.record import Record


class Contention(Record):
    """The contention of one machine during a measurement; None stands for a figure that the system does not state.

    `other_share`: CPU time of programs other than the measured ones and the measuring one, as a share of the CPU time
    of all processors. `steal_share`: the share of the CPU time that programs asked for which the hypervisor gave to
    other virtual machines. `frequency_hz`: mean frequency of the processors while they work.
    """

    other_share: float | None = None
    steal_share: float | None = None
    frequency_hz: float | None = None
