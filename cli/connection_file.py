"""DATA_DIR/footfall.json: the addresses, admin key and database of the suite that runs on this machine."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

FILE_NAME = "footfall.json"


@dataclass(frozen=True, slots=True)
class ConnectionFile:
    """The contents of the file. Addresses are host:port, the others of TLS are paths of PEM files (see ClientTls).

    Only the owner can read it, because it holds an admin key.
    """

    ingest: str
    query: str
    admin: str
    admin_key: str
    database_url: str
    tls_ca: str = ""
    tls_client_certificate: str = ""
    tls_client_key: str = ""
    tls_server_name: str = ""

    def write(self, data_dir: Path) -> None:
        """Replaces the file atomically, so that no reader sees a part of it."""
        partial = data_dir / f"{FILE_NAME}.partial"
        partial.unlink(missing_ok=True)
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump({name: getattr(self, name) for name in self.__slots__}, file, indent=2)
        partial.replace(data_dir / FILE_NAME)


def read_connection_file(data_dir: Path) -> ConnectionFile | None:
    """The file that the last `footfall up` on the folder wrote; None if there is none.

    Raises ValueError if the file is damaged, and OSError if it cannot be read.
    """
    path = data_dir / FILE_NAME
    try:
        known = json.loads(path.read_bytes())
        tls = {name: str(known.get(name, "")) for name in ConnectionFile.__slots__ if name.startswith("tls_")}
        others = {name: str(known[name]) for name in ConnectionFile.__slots__ if name not in tls}
        return ConnectionFile(**others, **tls)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error!r}); remove it and start `footfall up` anew") from None
