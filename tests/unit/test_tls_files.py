"""What a service says of TLS files that cannot be used, and which ones it takes in their place."""

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from common.clock import system_clock
from common.process.tls import CertificateError, Certificates, TlsFiles, is_loopback, is_self_signed, name_for
from tests.support.certificates import Authority, Pair


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "authority")


@pytest.fixture
def pair(authority: Authority) -> Pair:
    return authority.signs("server")


def encrypted(pair: Pair, _: Path) -> TlsFiles:
    key = serialization.load_pem_private_key(pair.key.read_bytes(), None)
    secret = serialization.BestAvailableEncryption(b"secret")
    pair.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, secret))
    return TlsFiles(pair.certificate, pair.key, None)


def text(path: Path) -> Path:
    path.write_text("not PEM")
    return path


WRONG: dict[str, Callable[[Pair, Path], TlsFiles]] = {
    "FOOTFALL_TLS_KEY: .* is not the key of": lambda pair, folder: TlsFiles(
        pair.certificate, Authority(folder, "other").signs("other").key, None
    ),
    "FOOTFALL_TLS_KEY: .* is encrypted": encrypted,
    "FOOTFALL_TLS_KEY: .* holds no private key": lambda pair, folder: TlsFiles(
        pair.certificate, text(folder / "text"), None
    ),
    "FOOTFALL_TLS_CERTIFICATE: .* holds no certificate": lambda pair, folder: TlsFiles(
        text(folder / "text"), pair.key, None
    ),
    "FOOTFALL_TLS_CERTIFICATE: .* cannot be read: No such file": lambda pair, folder: TlsFiles(
        folder / "absent", pair.key, None
    ),
    "FOOTFALL_TLS_KEY: .* cannot be read: Is a directory": lambda pair, folder: TlsFiles(
        pair.certificate, folder, None
    ),
    "FOOTFALL_TLS_CLIENT_CA: .* holds no certificate": lambda pair, folder: TlsFiles(
        pair.certificate, pair.key, text(folder / "text")
    ),
}


@pytest.mark.parametrize("message", WRONG)
def test_files_that_cannot_be_used_are_named_in_one_line(pair: Pair, tmp_path: Path, message: str) -> None:
    files = WRONG[message](pair, tmp_path)
    with pytest.raises(CertificateError, match=message) as found:
        files.read(system_clock)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(("years", "warned"), [(0, ""), (2, "expired at"), (-2, "is valid from")])
def test_a_certificate_at_a_time_at_which_it_is_not_valid_is_a_warning(
    pair: Pair, caplog: pytest.LogCaptureFixture, years: int, warned: str
) -> None:
    TlsFiles(pair.certificate, pair.key, None).read(lambda: datetime.now(UTC) + timedelta(days=365 * years))
    assert [warned in line for line in caplog.messages] == ([True] if warned else [])


def test_changed_files_are_taken_once_and_unusable_ones_are_not(
    pair: Pair, authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A wrong pair is told in one line, however often it is asked for, until the files change again."""
    caplog.set_level(logging.INFO)
    certificates = Certificates(TlsFiles(pair.certificate, pair.key, authority.file), system_clock)
    assert certificates.changed() is None
    pair.replaced_by(authority.signs("second"))
    assert certificates.changed() is not None
    assert certificates.changed() is None
    pair.key.write_bytes(authority.signs("third").key.read_bytes())
    caplog.clear()
    assert [certificates.changed() for _ in range(3)] == [None] * 3
    [line] = caplog.messages
    assert "stay in force" in line
    pair.key.unlink()
    assert certificates.changed() is None
    pair.replaced_by(authority.signs("fourth"))
    assert certificates.changed() is not None
    Path(authority.file).write_bytes(Authority(tmp_path, "new").file.read_bytes())
    assert certificates.changed() is not None


@pytest.mark.parametrize(
    ("address", "only_here"),
    [
        ("127.0.0.1:1", True),
        ("127.8.9.1:1", True),
        ("localhost:1", True),
        ("[::1]:1", True),
        ("[::ffff:127.0.0.1]:1", True),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        (":1", False),
        ("192.0.2.1:1", False),
        ("name.invalid:1", False),
    ],
)
def test_it_is_known_whether_only_this_machine_reaches_an_address(address: str, only_here: bool) -> None:
    assert is_loopback(address) is only_here


def test_the_name_to_ask_for_is_one_of_the_certificate(authority: Authority) -> None:
    """So that a command on the same machine can verify a certificate for the name in the world."""
    assert name_for(authority.signs("a", "localhost", "127.0.0.1").certificate, "127.0.0.1") == ""
    assert name_for(authority.signs("b", "stats.example.org").certificate, "127.0.0.1") == "stats.example.org"
    assert name_for(authority.signs("c", "*.example.org").certificate, "127.0.0.1") == "footfall.example.org"


def test_a_chain_that_ends_with_its_authority_is_known(authority: Authority, pair: Pair) -> None:
    assert is_self_signed(authority.file)
    assert not is_self_signed(pair.certificate)
    whole = replace(pair, certificate=pair.certificate.with_name("whole.pem"))
    whole.certificate.write_bytes(pair.certificate.read_bytes() + authority.file.read_bytes())
    assert is_self_signed(whole.certificate)
