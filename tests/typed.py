"""A command as a person types it, in this process."""

from __future__ import annotations

import sys
from unittest import mock

import pytest

from nas.cli import main


def command(*told: object) -> int:
    """The exit status of ``nas TOLD...``."""
    with mock.patch.object(sys, "argv", ["nas", *map(str, told)]):
        try:
            main()
        except SystemExit as stopped:
            return int(stopped.code or 0)
    return 0


def ran(capsys: pytest.CaptureFixture[str], *told: object) -> tuple[int, str, str]:
    """The exit status of ``nas TOLD...``, and what it wrote to stdout and to stderr."""
    status = command(*told)
    wrote = capsys.readouterr()
    return status, wrote.out, wrote.err
