"""DATA_DIR/footfall.json: how clients on this machine reach a running suite."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

FILE_NAME = "footfall.json"


@dataclass(frozen=True, slots=True)
class ConnectionFile:
    """Addresses are host:port. The file is readable by its owner only, for it holds an admin key."""

    ingest: str
    query: str
    admin: str
    admin_key: str
    database_url: str

    def write(self, data_dir: Path) -> None:
        """Replaces the file at once, so that no reader sees half of it."""
        partial = data_dir / f"{FILE_NAME}.partial"
        partial.unlink(missing_ok=True)
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump({name: getattr(self, name) for name in self.__slots__}, file, indent=2)
        partial.replace(data_dir / FILE_NAME)


def read_connection_file(data_dir: Path) -> ConnectionFile | None:
    """What the last `footfall up` on the folder wrote; None when there was none.

    Raises ValueError when the file is damaged, and OSError when it may not be read.
    """
    path = data_dir / FILE_NAME
    try:
        known = json.loads(path.read_bytes())
        return ConnectionFile(**{name: str(known[name]) for name in ConnectionFile.__slots__})
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error!r}); remove it and start `footfall up` anew") from None
