"""The unmodified asyncio shell in a simulated world: `python -m tests.simulation --tier shell`.

The real `Server` and real `Client`s run here, with their real sockets' code, threads' code, SQLite files and
aioquic, in one process and in virtual time. Simulated is only what lies below them: the event loop's clock
(`loop`), the kernel's sockets and what is between computers (`kernel_sockets`, `internet`), when a thread
runs (`threads`), clocks and random numbers (`pins`). A process (`process`) can be killed at any moment, as by
`kill -9`: nothing of it runs any more. `settings` draws a seed's mix, `device`, `host_server` and `run` live
it, `checker` reads what happened, `mutants` are the bugs that it must find.
"""
