"""Fuzzing: made-up input of four kinds, deterministic from a seed; `python -m tests.fuzz --help`.

`codec` bytes into the decoder, with a second decoder as oracle; `frames` hostile but well-formed frames
into sessions, hub and mailbox, before and after sign-in; `quic` QUIC frames of every type into a
connection; `datagrams` damaged packets into the server's endpoint. `engine` runs cases and reports
findings, `grammar` makes frames. What was found becomes a test of its own (`corpus` has the inputs of it
that are bytes).
"""
