"""What all commands share: argument parsing, tables, and errors as one line with a documented exit code."""

import argparse
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from typing import NoReturn

from alexnet_jax.cli import environment
from alexnet_jax.errors import EXIT_CODES, AlexNetError, ConfigError, of_system, one_line


def exit_codes() -> str:
    """Format the exit codes for the help of every command."""
    codes = "\n".join(f"  {code:3}  {meaning}" for code, meaning in EXIT_CODES.items())
    return f"exit codes:\n{codes}"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see --help")


def parser(description: str) -> argparse.ArgumentParser:
    """Make an argument parser that raises ConfigError, and whose help lists the exit codes."""
    return _Parser(
        description=description,
        epilog=exit_codes(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def add_step(parser: argparse.ArgumentParser) -> None:
    """Add the option --step, whose values are those of trained.load."""
    parser.add_argument(
        "--step", type=_step, metavar="N|best",
        help="the checkpoint; best: of the lowest validation error; default: the one of results.json, "
        "which is the newest but for runs with train.patience",
    )  # fmt: skip


def _step(text: str) -> int | str:
    if text == "best":
        return text
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is neither a step nor best")
    return int(text)


def config_overrides(unknown: list[str]) -> list[str]:
    """Return the --config.key=value arguments that argparse left over. Raises ConfigError for any others."""
    overrides: list[str] = []
    for argument in unknown:
        if argument.startswith(("--config.", "--noconfig.")):
            overrides.append(argument)
        elif overrides and "=" not in overrides[-1] and not argument.startswith("-"):
            overrides[-1] += f"={argument}"  # --config.key value
        else:
            raise ConfigError(f"unknown argument {argument}; see --help")
    return overrides


def table(rows: Iterable[Sequence[str]], right: Sequence[int] = ()) -> list[str]:
    """Format rows of cells as lines with aligned columns; those with an index in `right` are right-aligned."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def run(main: Callable[[list[str]], int | None]) -> NoReturn:
    """Run `main(arguments)` and exit with the code that it returns (None: 0), or with that of its error."""
    environment.open_streams()
    code = 1
    try:
        code = _run(main, sys.argv[1:])
    finally:
        environment.flush_streams()
    sys.exit(code)


def _run(main: Callable[[list[str]], int | None], arguments: list[str]) -> int | None:
    try:
        if not {"-h", "--help"} & set(arguments):
            environment.check()
        return main(arguments)
    except SystemExit as end:  # argparse, after --help
        return end.code if isinstance(end.code, int) else 0
    except AlexNetError as error:
        return _report(error)
    except BrokenPipeError:
        return 0
    except KeyboardInterrupt:
        environment.say_error("stopped")
        return 130
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("alexnet_jax"):
            raise
        return _report(
            ConfigError(
                f"{sys.executable} has no package {error.name}: use .venv/bin/python, which make sets up"
            )
        )
    except Exception as error:
        if known := environment.fault(error) or of_system(error):
            return _report(known)
        environment.say_error(
            f"{traceback.format_exc()}alexnet: error[E_INTERNAL]: {type(error).__name__}: "
            f"{one_line(error)}; this is a fault of the program: please report it with the lines above"
        )
        return 1


def _report(error: AlexNetError) -> int:
    environment.say_error(error.line())
    return error.exit_code
