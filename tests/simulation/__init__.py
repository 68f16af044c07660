"""A simulated world: one seed is a whole run of server, clients, network and disks, in virtual time.

The real mailbox, sessions, hub and memory store run here; clock, network, disks and people are simulated
(`kernel`, `network`, `server`, `connected`, `device`, `journal`). A seed draws its own mix of faults and
limits (`settings`); `run` runs it; `checker` says whether what happened keeps the contract; `mutants`
are bugs that it must find; `story` is a world for scenario tests. `python -m tests.simulation --help`.
"""
