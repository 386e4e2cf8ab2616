"""Fuzzing: bytes that nobody would send, against everything that reads bytes. `python -m tests.fuzz --help`.

`engine` mutates and watches, `targets` say what is run and which outcomes are new. What was found and mended is
kept in `found/` and run by every test run.
"""
