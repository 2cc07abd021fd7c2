"""How the commands speak TLS and mTLS to the services."""

from dataclasses import dataclass
from pathlib import Path

import grpc

SYSTEM = "system"
"""In place of a file of authorities: those that are well known."""
OFF = "off"
"""In place of a file of authorities: plain text, also where footfall.json says otherwise."""


@dataclass(frozen=True, slots=True)
class ClientTls:
    """PEM files by their paths. Without `ca` the commands speak plain text.

    `certificate` and `key` are the client's own (mTLS). `server_name` is the name that the server's certificate must
    have; "" = the host of the address.
    """

    ca: str = ""
    certificate: str = ""
    key: str = ""
    server_name: str = ""

    @property
    def in_use(self) -> bool:
        """Whether the commands speak TLS."""
        return bool(self.ca) and self.ca != OFF

    def credentials(self) -> grpc.ChannelCredentials | None:
        """For a channel; None = plain text. Raises ValueError with a line that says what is missing or unreadable."""
        if bool(self.certificate) != bool(self.key):
            raise ValueError("FOOTFALL_TLS_CLIENT_CERTIFICATE and FOOTFALL_TLS_CLIENT_KEY go together")
        if not self.in_use:
            if self.certificate and self.ca != OFF:
                raise ValueError("FOOTFALL_TLS_CLIENT_CERTIFICATE needs FOOTFALL_TLS_CA: a file, or `system`")
            return None
        return grpc.ssl_channel_credentials(
            root_certificates=None if self.ca == SYSTEM else _read("FOOTFALL_TLS_CA", self.ca),
            private_key=_read("FOOTFALL_TLS_CLIENT_KEY", self.key) if self.key else None,
            certificate_chain=_read("FOOTFALL_TLS_CLIENT_CERTIFICATE", self.certificate) if self.certificate else None,
        )

    def options(self) -> list[tuple[str, str]]:
        """Options of a channel that go with the credentials."""
        return [("grpc.ssl_target_name_override", self.server_name)] if self.in_use and self.server_name else []

    def grpcurl_options(self) -> list[str]:
        """The same for grpcurl."""
        if not self.in_use:
            return ["-plaintext"]
        named = {
            "-cacert": "" if self.ca == SYSTEM else self.ca,
            "-cert": self.certificate,
            "-key": self.key,
            "-authority": self.server_name,
        }
        return [word for option, value in named.items() if value for word in (option, value)]


def _read(name: str, path: str) -> bytes:
    try:
        pem = Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"{name}: {path} cannot be read: {error.strerror}") from None
    # gRPC itself reports such a file only as a failed connection.
    if b"-----BEGIN " not in pem:
        raise ValueError(f"{name}: {path} is not in PEM form")
    return pem
