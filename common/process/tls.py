"""Certificates of a service: read from their files, checked, and read again when the files change."""

import ipaddress
import logging
import os
import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from common.clock import Clock
from common.settings import Settings

_log = logging.getLogger(__name__)

_Signature = tuple[tuple[int, int, int] | None, ...]


class CertificateError(Exception):
    """The files cannot be used. The message says in one line which and why."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """The PEM files of a service. With `client_ca` it takes only clients with a certificate that is signed by it."""

    certificate: Path
    key: Path
    client_ca: Path | None

    @classmethod
    def of(cls, settings: Settings) -> "TlsFiles | None":
        """The files that the settings name; None = the service speaks plain text."""
        if settings.tls_certificate is None or settings.tls_key is None:
            return None
        return cls(settings.tls_certificate, settings.tls_key, settings.tls_client_ca)

    def read(self, clock: Clock) -> grpc.ServerCertificateConfiguration:
        """What the files hold now. Raises CertificateError; warns of a certificate that is not valid at this time."""
        chain_pem, key_pem = _read("CERTIFICATE", self.certificate), _read("KEY", self.key)
        chain = _certificates("CERTIFICATE", self.certificate, chain_pem)
        try:
            key = load_pem_private_key(key_pem, None)
        except TypeError:
            raise CertificateError(f"FOOTFALL_TLS_KEY: {self.key} is encrypted; give it without a passphrase") from None
        except (ValueError, UnsupportedAlgorithm):
            raise CertificateError(f"FOOTFALL_TLS_KEY: {self.key} holds no private key in PEM form") from None
        if key.public_key() != chain[0].public_key():
            raise CertificateError(
                f"FOOTFALL_TLS_KEY: {self.key} is not the key of the first certificate in {self.certificate}"
            )
        client_ca = None
        if self.client_ca is not None:
            client_ca = _read("CLIENT_CA", self.client_ca)
            _warn_of_time(_certificates("CLIENT_CA", self.client_ca, client_ca), self.client_ca, clock)
        _warn_of_time(chain, self.certificate, clock)
        return grpc.ssl_server_certificate_configuration([(key_pem, chain_pem)], client_ca)

    def signature(self) -> _Signature:
        """It changes when a file changes. A file that is not there has None."""
        return tuple(_signature(path) for path in (self.certificate, self.key, self.client_ca) if path is not None)


class Certificates:
    """The certificates that new connections get. Files that cannot be used leave those before them in force."""

    def __init__(self, files: TlsFiles, clock: Clock) -> None:
        """Raises CertificateError for files that cannot be used."""
        self._files = files
        self._clock = clock
        self._lock = threading.Lock()
        self._seen = files.signature()
        self._first = files.read(clock)

    def credentials(self) -> grpc.ServerCredentials:
        """For the server's port. gRPC asks before each handshake whether there are new certificates."""
        return grpc.dynamic_ssl_server_credentials(
            self._first,
            self.changed,  # type: ignore[arg-type]  # the stubs do not know that None means no change
            require_client_authentication=self._files.client_ca is not None,
        )

    def changed(self) -> grpc.ServerCertificateConfiguration | None:
        """The new certificates if the files have changed since the last call, else None. Any thread may call it."""
        with self._lock:
            signature = self._files.signature()
            if signature == self._seen:
                return None
            self._seen = signature
            try:
                read = self._files.read(self._clock)
            except CertificateError as error:
                _log.error("the certificates before stay in force: %s", error)
                return None
            _log.info("new certificates from %s", self._files.certificate)
            return read


def credentials_of(settings: Settings, clock: Clock) -> grpc.ServerCredentials | None:
    """The credentials of a service's port; None = plain text. Raises SystemExit with one line for unusable files."""
    files = TlsFiles.of(settings)
    if files is None:
        return None
    try:
        return Certificates(files, clock).credentials()
    except CertificateError as error:
        raise SystemExit(str(error)) from None


def is_loopback(address: str) -> bool:
    """Whether only this machine reaches the host of a host:port."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        found = [ipaddress.ip_address(host)]
    except ValueError:
        try:
            found = [
                ipaddress.ip_address(str(one[4][0]).partition("%")[0])
                for one in socket.getaddrinfo(host or None, None, flags=socket.AI_PASSIVE)
            ]
        except OSError:
            return False
    return all(one.is_loopback or _mapped_loopback(one) for one in found)


def is_self_signed(certificate: Path) -> bool:
    """Whether the file ends with a certificate that is its own authority, so that a client needs no other file.

    Raises CertificateError for an unusable file."""
    last = _certificates("CERTIFICATE", certificate, _read("CERTIFICATE", certificate))[-1]
    return last.issuer == last.subject


def name_for(certificate: Path, host: str) -> str:
    """The name by which a client that calls `host` must ask for the certificate: "" = the host itself is one of its
    names. Raises CertificateError for an unusable file."""
    leaf = _certificates("CERTIFICATE", certificate, _read("CERTIFICATE", certificate))[0]
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ""
    dns = names.get_values_for_type(x509.DNSName)
    addresses = [str(address) for address in names.get_values_for_type(x509.IPAddress)]
    if host in addresses or host in dns or not dns:
        return ""
    # Any name that a wildcard stands for will do.
    return dns[0].replace("*", "footfall", 1)


def _mapped_loopback(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped is not None and mapped.is_loopback


def _read(name: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CertificateError(f"FOOTFALL_TLS_{name}: {path} cannot be read: {error.strerror}") from None


def _certificates(name: str, path: Path, pem: bytes) -> Sequence[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise CertificateError(f"FOOTFALL_TLS_{name}: {path} holds no certificate in PEM form") from None


def _warn_of_time(certificates: Sequence[x509.Certificate], path: Path, clock: Clock) -> None:
    now = clock()
    for certificate in certificates:
        if now > certificate.not_valid_after_utc:
            _log.warning("a certificate in %s expired at %s", path, certificate.not_valid_after_utc.isoformat())
        elif now < certificate.not_valid_before_utc:
            _log.warning("a certificate in %s is valid from %s", path, certificate.not_valid_before_utc.isoformat())


def _signature(path: Path) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
