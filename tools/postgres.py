"""A PostgreSQL server for as long as this runs: for trying `espalier work`, tests and benchmarks.

    python tools/postgres.py            prints its address, and ends with ^C

It needs PostgreSQL's own programs (Debian: apt install postgresql, which keeps them in
/usr/lib/postgresql/VERSION/bin), keeps its data in a temporary directory, and trusts everybody on
this machine: nothing to keep anything in. Root starts it as `nobody`, since it refuses root.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

USER = "espalier"
SYSTEM_USER = "nobody"
DEBIAN = "/usr/lib/postgresql"


def program(name: str) -> str | None:
    """Where one of PostgreSQL's programs is; None where it is not installed."""
    places = [str(folder) for folder in sorted(Path(DEBIAN).glob("*/bin"), reverse=True)]
    return shutil.which(name) or shutil.which(name, path=os.pathsep.join(places))


@contextlib.contextmanager
def server() -> Iterator[str]:
    """The address of an empty database. Raises FileNotFoundError without PostgreSQL."""
    initdb, pg_ctl = program("initdb"), program("pg_ctl")
    if initdb is None or pg_ctl is None:
        raise FileNotFoundError("PostgreSQL's initdb and pg_ctl are not installed")
    with tempfile.TemporaryDirectory(prefix="postgres-") as name:
        place, port = Path(name) / "data", _free_port()
        become = []
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            shutil.chown(name, SYSTEM_USER)
            become = ["setpriv", f"--reuid={SYSTEM_USER}", "--clear-groups", "--"]
        make = [initdb, "-D", str(place), "-U", USER, "-A", "trust", "--no-sync"]
        _run([*become, *make], name)
        options = f"-k {name} -p {port} -c listen_addresses=localhost -c fsync=off"
        start = [pg_ctl, "-D", str(place), "-l", f"{name}/log", "-w", "-o", options, "start"]
        _run([*become, *start], name)
        try:
            yield f"postgresql://{USER}@localhost:{port}/postgres"
        finally:
            _run([*become, pg_ctl, "-D", str(place), "-m", "immediate", "-w", "stop"], name)


def _run(words: list[str], folder: str) -> None:
    done = subprocess.run(
        words, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    with server() as address:
        print(f"{address}   (^C ends it)", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()
