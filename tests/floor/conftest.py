"""The scripts of the repository, for the tests that run on the oldest host and on the newest."""

from __future__ import annotations
