"""`footfall` commands on a running suite, in this process."""

from typer.testing import CliRunner

from cli.main import app
from tests.support.suite import Suite


def footfall(suite: Suite, *arguments: object) -> tuple[int, str]:
    """Exit code and output of `footfall …` on the suite's data folder, in lines of up to 200 characters."""
    result = CliRunner().invoke(
        app,
        [*map(str, arguments), "--data-dir", str(suite.data_dir)],
        env={"FOOTFALL_DATABASE_URL": suite.database_url, "COLUMNS": "200"},
    )
    return result.exit_code, result.output
