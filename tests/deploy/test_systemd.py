"""The unit says of stopping, restarting and its state what the daemon does."""

from __future__ import annotations

import shlex

from dsqlcdc.cli.run import run

from ..docs.reading import ROOT

UNIT = (ROOT / "deploy" / "systemd" / "dsqlcdc.service").read_text(encoding="utf-8")


def settings() -> dict[str, str]:
    lines = [line.partition("=") for line in UNIT.splitlines() if "=" in line and not line.startswith("#")]
    return {name: value for name, _, value in lines}


def test_the_unit_starts_the_daemon_and_gives_it_time_to_drain() -> None:
    made = settings()
    command = shlex.split(made["ExecStart"])
    assert command[0].endswith("/bin/dsqlcdc")
    assert command[1] == run.__name__
    assert int(made["TimeoutStopSec"].removesuffix("s")) > 30  # how long SIGTERM drains
    assert made["KillSignal"] == "SIGTERM"


def test_what_a_restart_cannot_mend_is_not_restarted() -> None:
    """Exit codes 2, a bad config, and 3, an unacknowledged gap."""
    made = settings()
    assert (made["Restart"], made["RestartPreventExitStatus"]) == ("always", "2 3")


def test_the_state_outlives_the_process_and_nobody_else_reads_it() -> None:
    made = settings()
    assert made["WorkingDirectory"] == f"/var/lib/{made['StateDirectory']}"
    assert (made["StateDirectoryMode"], made["UMask"], made["ProtectSystem"], made["DynamicUser"]) == ("0700", "0077", "strict", "yes")
    assert made["EnvironmentFile"].startswith("/etc/")
