"""TLS and mTLS: of the services, whose certificates are exchanged while they run, and of the commands."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from typer.testing import CliRunner

from cli.connection import Connection
from cli.demo import _what_next
from cli.main import app
from cli.suite import running_suite
from tests.support.certificates import Authority, Pair
from tests.support.processes import Running, running_service
from tests.support.suite import Suite, database_on

SERVING = health_pb2.HealthCheckResponse.SERVING


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def authority(folder: Path) -> Authority:
    return Authority(folder, "authority")


@pytest.fixture(scope="module")
def clients(folder: Path) -> Authority:
    """The authority of the clients' certificates."""
    return Authority(folder, "clients")


def tls(suite: Suite, pair: Pair, **more: object) -> dict[str, str]:
    settings = {"DATABASE_URL": suite.database_url, "TLS_CERTIFICATE": pair.certificate, "TLS_KEY": pair.key, **more}
    return {f"FOOTFALL_{name}": str(value) for name, value in settings.items()}


def answers(running: Running, authority: Authority | None, own: Pair | None = None) -> bool:
    """Whether a new client with these certificates is answered. None = in plain text."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    if authority is None:
        channel = grpc.insecure_channel(running.address, options=options)
    else:
        credentials = grpc.ssl_channel_credentials(
            authority.file.read_bytes(),
            own.key.read_bytes() if own else None,
            own.certificate.read_bytes() if own else None,
        )
        channel = grpc.secure_channel(running.address, credentials, options=options)
    with channel:
        code = code_of(lambda: health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=20))
    assert code in (None, grpc.StatusCode.UNAVAILABLE)
    return code is None


def code_of(call: Callable[[], object]) -> grpc.StatusCode | None:
    """The status with which the call fails; None = it does not."""
    try:
        call()
    except grpc.RpcError as error:
        found: grpc.StatusCode = error.code()
        return found
    return None


def test_with_a_client_authority_only_clients_that_it_signed_are_served(
    suite: Suite, folder: Path, authority: Authority, clients: Authority
) -> None:
    environment = tls(suite, authority.signs("mtls"), TLS_CLIENT_CA=clients.file)
    with running_service("query", suite.data_dir, environment) as running:
        assert answers(running, authority, clients.signs("client"))
        assert not answers(running, authority)
        assert not answers(running, authority, Authority(folder, "stranger").signs("stranger"))
        assert not answers(running, Authority(folder, "impostor"), clients.signs("client"))
        assert not answers(running, None)


def test_certificates_are_exchanged_while_the_service_runs(suite: Suite, folder: Path, authority: Authority) -> None:
    """A connection that is open stays; files that cannot be used leave those before in force, and are told once."""
    later = Authority(folder, "later")
    pair = authority.signs("exchanged")
    with running_service("query", suite.data_dir, tls(suite, pair)) as running:
        credentials = grpc.ssl_channel_credentials(authority.file.read_bytes())
        with grpc.secure_channel(running.address, credentials) as kept:
            health = health_pb2_grpc.HealthStub(kept)
            assert health.Check(health_pb2.HealthCheckRequest()).status == SERVING
            pair.replaced_by(later.signs("second"))
            assert answers(running, later)
            assert not answers(running, authority)
            pair.key.write_bytes(authority.signs("third").key.read_bytes())
            for _ in range(3):
                assert answers(running, later)
            assert running.log.read_text().count("stay in force") == 1
            pair.replaced_by(authority.signs("fourth"))
            assert answers(running, authority)
            assert health.Check(health_pb2.HealthCheckRequest()).status == SERVING


@pytest.mark.parametrize("workers", [0, 2])
def test_a_key_of_another_certificate_ends_the_start_with_one_line(
    suite: Suite, authority: Authority, workers: int
) -> None:
    mixed = Pair(authority.signs("one").certificate, authority.signs("two").key)
    environment = {**os.environ, **tls(suite, mixed, LISTEN="127.0.0.1:0", WORKERS=workers)}
    started = subprocess.run(
        [sys.executable, "-m", "query_svc"], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert started.returncode == 1
    [line] = started.stderr.splitlines()
    assert "is not the key of" in line


def test_listening_beyond_this_machine_in_plain_text_is_a_warning(suite: Suite, authority: Authority) -> None:
    plain = {"FOOTFALL_DATABASE_URL": suite.database_url, "FOOTFALL_LISTEN": "0.0.0.0:0"}
    for environment, warned in (
        (plain, True),
        ({**plain, "FOOTFALL_LISTEN": "127.0.0.1:0"}, False),
        (tls(suite, authority.signs("beyond"), LISTEN="0.0.0.0:0"), False),
    ):
        with running_service("query", suite.data_dir, environment) as running:
            assert ("in plain text" in running.log.read_text()) is warned


@pytest.mark.parametrize(
    ("listen", "setting", "offered"),
    [("127.0.0.1:0", "", True), ("0.0.0.0:0", "", False), ("127.0.0.1:0", "off", False), ("0.0.0.0:0", "on", True)],
)
def test_channelz_is_offered_on_loopback_and_where_it_is_switched_on(
    suite: Suite, listen: str, setting: str, offered: bool
) -> None:
    environment = {"FOOTFALL_DATABASE_URL": suite.database_url, "FOOTFALL_LISTEN": listen}
    if setting:
        environment["FOOTFALL_CHANNELZ"] = setting
    with running_service("query", suite.data_dir, environment) as running:
        address = running.address.replace("0.0.0.0", "127.0.0.1")
        with grpc.insecure_channel(address) as channel:
            stub = channelz_pb2_grpc.ChannelzStub(channel)
            code = code_of(lambda: stub.GetServers(channelz_pb2.GetServersRequest(), timeout=20))
    assert code is (None if offered else grpc.StatusCode.UNIMPLEMENTED)


@pytest.fixture(scope="module")
def secured(
    postgres_url: str, open_folder: Path, folder: Path, authority: Authority, clients: Authority
) -> Iterator[tuple[Connection, Path]]:
    """What `footfall up` runs where it serves with mTLS, under a name that is not its address."""
    pair, own = authority.signs("up", "stats.example.org"), clients.signs("own")
    with database_on(postgres_url) as url:
        environment = {
            **os.environ,
            "FOOTFALL_DATABASE_URL": url,
            "FOOTFALL_SCHEDULE": "off",
            "FOOTFALL_TLS_CERTIFICATE": str(pair.certificate),
            "FOOTFALL_TLS_KEY": str(pair.key),
            "FOOTFALL_TLS_CLIENT_CA": str(clients.file),
            "FOOTFALL_TLS_CA": str(authority.file),
            "FOOTFALL_TLS_CLIENT_CERTIFICATE": str(own.certificate),
            "FOOTFALL_TLS_CLIENT_KEY": str(own.key),
        }
        with running_suite(open_folder / "secured", (0, 0, 0), environment) as connection:
            yield connection, open_folder / "secured"


def footfall(*arguments: str, **environment: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200", **environment})
    return result.exit_code, result.output


def test_commands_find_in_footfall_json_how_to_speak_mtls(secured: tuple[Connection, Path]) -> None:
    _, data_dir = secured
    code, output = footfall("sites", "create", "shop", "--data-dir", str(data_dir))
    assert (code, "Created the site shop" in output) == (0, True), output
    code, output = footfall("report", "--site", "shop", "--data-dir", str(data_dir))
    assert code == 0, output


def test_commands_on_another_machine_take_it_from_the_environment(
    secured: tuple[Connection, Path], tmp_path: Path
) -> None:
    """And say in one line what is missing or wrong."""
    connection, data_dir = secured
    written = json.loads((data_dir / "footfall.json").read_text())
    remote = {
        "FOOTFALL_ADMIN": connection.admin,
        "FOOTFALL_ADMIN_KEY": connection.admin_key,
        "FOOTFALL_TLS_CA": written["tls_ca"],
        "FOOTFALL_TLS_CLIENT_CERTIFICATE": written["tls_client_certificate"],
        "FOOTFALL_TLS_CLIENT_KEY": written["tls_client_key"],
        "FOOTFALL_TLS_SERVER_NAME": "stats.example.org",
    }
    ask = ("sites", "list", "--data-dir", str(tmp_path))
    assert footfall(*ask, **remote)[0] == 0
    for changed, message in (
        ({"FOOTFALL_TLS_CA": str(tmp_path / "absent")}, "cannot be read: No such file"),
        ({"FOOTFALL_TLS_CLIENT_KEY": ""}, "go together"),
        ({"FOOTFALL_TLS_CA": ""}, "needs FOOTFALL_TLS_CA"),
        ({"FOOTFALL_TLS_CLIENT_CERTIFICATE": "", "FOOTFALL_TLS_CLIENT_KEY": ""}, "FOOTFALL_TLS_CLIENT_CERTIFICATE"),
        ({"FOOTFALL_TLS_CA": "off"}, "For TLS set FOOTFALL_TLS_CA"),
    ):
        code, output = footfall(*ask, **{**remote, **changed})
        assert code == 1
        [line] = output.strip().splitlines()
        assert message in line


def test_what_the_demo_says_to_try_next_names_the_certificates(secured: tuple[Connection, Path]) -> None:
    connection, data_dir = secured
    said = _what_next(connection, data_dir)
    for option in ("-cacert", "-cert", "-key", "-authority stats.example.org"):
        assert option in said
    assert "-plaintext" not in said
