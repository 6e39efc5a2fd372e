"""The `zcell` command: what it is called with. Invariant: nothing heavy is imported before the command that needs it runs."""

from __future__ import annotations

import contextlib
import logging
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from zcell.cli.exits import EPILOG, USAGE, reports_errors
from zcell.cli.outlet import STDOUT

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    epilog=EPILOG,
    help="Launch jobs that share no disk with you, ship their files, bring the results back verified.",
)

_UsageError: type[Exception] = typer.BadParameter.__mro__[1]  # wherever this version of typer has it


def _a_path(value: str) -> Path:
    """An empty name would mean the current directory, and most likely comes from a variable that is not set."""
    if not str(value):
        raise typer.BadParameter("the name is empty; is a variable not set?")
    return Path(value)


Json = Annotated[bool, typer.Option("--json", help="One JSON object a line on standard output, and nothing else there.")]
Exclude = Annotated[
    list[str] | None,
    typer.Option(help="Leave out what matches: *.pyc at any depth, data/raw there only; may be repeated.", metavar="PATTERN"),
]
Insecure = Annotated[
    bool, typer.Option("--insecure", help="Allow an address other than this machine's: nothing is encrypted on the way.")
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="Setting of the launcher, JSON or text; may be repeated.", metavar="K=V")
]
Listen = Annotated[
    str | None,
    typer.Option(help="Address where the job reaches this command; default: what the launcher needs.", metavar="URL"),
]
SecretFile = Annotated[
    Path | None,
    typer.Option(
        "--secret-file", parser=_a_path, help="File (mode 0600) with the link secret that both sides share.", metavar="FILE"
    ),
]


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"zcell {version('zcell')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options of the whole command."""


@app.command(epilog=EPILOG)
@reports_errors
def run(
    workspace: Annotated[
        Path,
        typer.Argument(parser=_a_path, help="Directory that is shipped; the job's working directory.", metavar="WORKSPACE"),
    ],
    command: Annotated[list[str], typer.Argument(help="Program and arguments, after --.", metavar="COMMAND")],
    launcher: Annotated[str, typer.Option(help="What starts the job: process, docker, slurm, kubernetes.")] = "process",
    image: Annotated[str | None, typer.Option(help="Image of the job's container; short for --set image=IMAGE.")] = None,
    settings: Settings = None,
    listen: Listen = None,
    insecure: Insecure = False,
    results: Annotated[
        Path | None, typer.Option(parser=_a_path, help="Put the results here and leave WORKSPACE as it is.", metavar="DIR")
    ] = None,
    env: Annotated[list[str] | None, typer.Option(help="Variable of the command; may be repeated.", metavar="K=V")] = None,
    exclude: Exclude = None,
    skip_links: Annotated[
        bool, typer.Option("--skip-links", help="Leave links at home with a warning, instead of refusing to ship WORKSPACE.")
    ] = False,
    grace: Annotated[float, typer.Option(help="Seconds between SIGTERM and SIGKILL when the job is ended.", min=0)] = 10.0,
    json: Json = False,
) -> int:
    """Ship WORKSPACE to a job, run COMMAND there, bring the results back, exit with the job's code.

    Without --results they go back into WORKSPACE. A failing command's results come back too. Ctrl-C ends the job and still brings
    back what there is; a second Ctrl-C ends it at once. WORKSPACE/startup never travels.
    """
    from zcell.cli.choosing import LauncherChoice
    from zcell.cli.run import run_job

    return run_job(
        workspace,
        command,
        launcher=LauncherChoice(launcher, {"image": image} if image is not None else {}, settings or [], listen, insecure),
        results=results,
        env=env or [],
        excludes=exclude or [],
        skip_links=skip_links,
        grace=grace,
        json=json,
    )


@app.command(epilog=EPILOG)
@reports_errors
def send(
    path: Annotated[Path, typer.Argument(parser=_a_path, help="File or directory to offer.", metavar="PATH")],
    listen: Annotated[str, typer.Option(help="Address to listen on; port 0 lets the system choose.", metavar="URL")] = (
        "tcp://127.0.0.1:0"
    ),
    receivers: Annotated[int, typer.Option(help="End once so many have confirmed it.", min=1)] = 1,
    exclude: Exclude = None,
    skip_links: Annotated[bool, typer.Option("--skip-links", help="Leave links in a directory out, with a warning.")] = False,
    insecure: Insecure = False,
    secret_file: SecretFile = None,
    json: Json = False,
) -> int:
    """Offer PATH and print the command for the other side; end when all receivers have confirmed it."""
    from zcell.cli.send import send_path

    return send_path(
        path,
        listen=listen,
        receivers=receivers,
        excludes=exclude or [],
        skip_links=skip_links,
        insecure=insecure,
        secret_file=secret_file,
        json=json,
    )


@app.command(epilog=EPILOG)
@reports_errors
def get(
    address: Annotated[str, typer.Argument(help="Where the sender listens.", metavar="ADDRESS")],
    ref: Annotated[str, typer.Argument(help="What it offers.", metavar="REF")],
    to: Annotated[Path, typer.Option(parser=_a_path, help="Directory to put it in.", metavar="DIR")] = Path(),
    insecure: Insecure = False,
    secret_file: SecretFile = None,
    json: Json = False,
) -> int:
    """Fetch what `zcell send` offers; run again, it continues where it was interrupted."""
    from zcell.cli.get import get_ref

    return get_ref(address, ref, to, insecure=insecure, secret_file=secret_file, json=json)


@app.command("sum", epilog=EPILOG)
@reports_errors
def sum_(
    paths: Annotated[
        list[str],
        typer.Argument(help="Files, or directories for all files in them; - is standard input.", metavar="PATH"),
    ],
    flat: Annotated[bool, typer.Option("--flat", help="Plain SHA-256 instead of the tree.")] = False,
    json: Json = False,
) -> int:
    """Print the SHA-256 tree digest of files: sha256-tree:HEX:LENGTH."""
    from zcell.cli.sums import sum_paths

    return sum_paths(paths, flat=flat, json=json)


@app.command(epilog=EPILOG)
@reports_errors
def doctor(
    launcher: Annotated[
        str | None, typer.Option(help="Check this launcher instead: ask its engine, run three tiny jobs, leave nothing.")
    ] = None,
    image: Annotated[str | None, typer.Option(help="Image of the jobs' containers; it needs python with zcell.")] = None,
    namespace: Annotated[str | None, typer.Option(help="Kubernetes namespace of the jobs; default: the context's.")] = None,
    settings: Settings = None,
    listen: Listen = None,
    insecure: Insecure = False,
    timeout: Annotated[
        float, typer.Option(help="Seconds that a job may take to start, pulling its image included.", min=1)
    ] = 300.0,
    json: Json = False,
) -> int:
    """Show versions and kernels, and test hashing, zip and a loopback link. With --launcher, check that jobs run there.

    Each check is one line: ok, or FAILED and what to do. With --launcher the exit code is that of the first that failed: 2 for a
    missing package or a wrong setting; 3 when the engine or the way back cannot be reached, or permissions are missing;
    4 when files do not travel; 5 when a job does not start, does not do what it should, or leaves something behind.
    """
    if launcher is None:
        from zcell.cli.doctor import examine

        if image or namespace or settings or listen or insecure:
            raise typer.BadParameter("these options are for the check of a launcher: add --launcher NAME")
        return examine(json=json)
    from zcell.cli.checkup import check_launcher
    from zcell.cli.choosing import LauncherChoice

    given = {name: value for name, value in (("image", image), ("namespace", namespace)) if value is not None}
    return check_launcher(LauncherChoice(launcher, given, settings or [], listen, insecure), limit=timeout, json=json)


def main() -> None:
    """The console script."""
    logging.basicConfig(level=logging.WARNING, format="zcell: %(message)s")  # on standard error
    try:
        code = app(prog_name="zcell", standalone_mode=False)
    except _UsageError as error:
        code = _misused(error)
    except OSError as error:  # of --help and --version; those of commands have been told
        STDOUT.fail(error)
        logging.getLogger("zcell.cli").error("standard output cannot be written: %s", STDOUT.fault)
        code = USAGE
    raise SystemExit(code)


def _misused(error: Any) -> int:
    """Say what the parser says, as an event too where the command line asks for those; the exit code."""
    from zcell.cli.screen import Screen

    with contextlib.suppress(OSError):
        error.show()
    words = sys.argv[1:]
    if "--json" in (words[: words.index("--")] if "--" in words else words):
        Screen(json=True).result("error", error=error.format_message(), exit_code=error.exit_code)
    return int(error.exit_code)


if __name__ == "__main__":
    main()
