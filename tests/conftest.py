"""What holds for all tests."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("patient", deadline=None)  # a deadline counts the time of the clock: a busy machine is none
settings.load_profile("patient")
