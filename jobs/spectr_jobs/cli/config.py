"""Configuration: options from a TOML file, and a listing of every option with the source of its value."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from spectr_jobs.cli.types import ROWS, Day, Duration, Rows
from spectr_jobs.console import say
from spectr_jobs.urls import masked

Decorated = TypeVar("Decorated", bound=Callable[..., Any])
ACTIONS = ("print_config", "dry_run")  # options with which the command decodes nothing
_SOURCES = {
    ParameterSource.COMMANDLINE: "command line",
    ParameterSource.ENVIRONMENT: "environment",
    ParameterSource.DEFAULT_MAP: "file",
    ParameterSource.DEFAULT: "default",
}


def option(command: Decorated) -> Decorated:
    """Add ``--config FILE``: a TOML file with one table, named after the command, that sets its options.

    The names of the options are written without their dashes, for instance:

        [run]
        batch-size = 32
    """
    return click.option(
        "--config",
        metavar="FILE",
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        is_eager=True,
        expose_value=False,
        callback=_read,
        help="TOML file with a table [run] of options, for instance batch-size = 32.",
    )(command)


def _read(ctx: click.Context, param: click.Parameter, value: Path | None) -> None:
    if value is None:
        return
    try:
        tables = tomllib.loads(value.read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"{value} is not TOML: {error}.", ctx, param) from error
    name = ctx.info_name or ""
    table = tables.pop(name, {})
    if tables or not isinstance(table, dict):
        found = ", ".join(tables) or type(table).__name__
        raise click.BadParameter(f"{value}: got {found}, allowed is one table [{name}].", ctx, param)
    ctx.default_map = _options(ctx, param, value, table)


def _options(ctx: click.Context, param: click.Parameter, file: Path, table: Mapping[str, Any]) -> dict[str, Any]:
    known = {_name(option): option.name for option in _configurable(ctx)}
    values = {}
    for key, item in table.items():
        name = known.get(key.replace("_", "-"))
        if name is None:
            raise click.BadParameter(f"{file}: got {key}, allowed are {', '.join(known)}.", ctx, param)
        values[name] = item
    for option in _configurable(ctx):
        if option.name in values and not _fits(option, values[option.name]):
            got = json.dumps(values[option.name], default=str)
            raise click.BadParameter(f"{file}: {_name(option)}: got {got}, allowed is {_words(option)}.", ctx, param)
    return values


def _fits(option: click.Option, value: Any) -> bool:
    """Return whether a value of TOML has the type of an option; click itself would turn 2.5 and true into integers."""
    if option.multiple:
        return isinstance(value, list)
    if option.is_flag or isinstance(value, bool):
        return option.is_flag and isinstance(value, bool)
    if isinstance(option.type, Rows):
        return isinstance(value, int) or value == ROWS
    if isinstance(option.type, click.types.IntParamType):
        return isinstance(value, int)
    if isinstance(option.type, click.types.FloatParamType):
        return isinstance(value, int | float)
    return isinstance(value, str) or isinstance(option.type, Duration | Day)


def _words(option: click.Option) -> str:
    if option.multiple:
        return "a list"
    kind = "boolean" if option.is_flag else option.type.name.partition(" ")[0]
    return {
        "boolean": "true or false",
        "integer": "an integer",
        "float": "a number",
        "rows": f'an integer or "{ROWS}"',
    }.get(kind, "a text")


def tell_unknown_variables(ctx: click.Context, environment: Mapping[str, str]) -> None:
    """Tell the user of variables that look like options of a command and are none."""
    prefix = f"{ctx.auto_envvar_prefix}_"
    known = {f"{prefix}{(param.name or '').upper()}" for param in ctx.command.params}
    for name in sorted(name for name in environment if name.startswith(prefix) and name not in known):
        say(f"warning: {name} is set, but there is no option of that name; see `spectr-batch run --help`")


def _configurable(ctx: click.Context) -> list[click.Option]:
    options = (param for param in ctx.command.params if isinstance(param, click.Option))
    return [option for option in options if option.expose_value and option.name not in ACTIONS]


def _name(option: click.Option) -> str:
    return max(option.opts, key=len).removeprefix("--")


def render(ctx: click.Context) -> str:
    """Return every option of a command as a line of TOML, with the source of its value as a comment."""
    lines = [f"[{ctx.info_name}]"]
    for option in _configurable(ctx):
        name, value = _name(option), ctx.params[option.name or ""]
        source = _SOURCES[ctx.get_parameter_source(option.name or "") or ParameterSource.DEFAULT]
        text = masked(json.dumps(value, default=str))  # a day becomes a text
        lines.append(f"# {name} is not set" if value is None else f"{name} = {text}  # {source}")
    return "\n".join(lines)
