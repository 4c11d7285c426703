"""The command reference as Markdown, made from the commands themselves: `python -m pconv_cli.cli.reference`.

Knows how to walk through commands and to word one in Markdown. Does not know what they do, and imports nothing heavy.
It goes by the declarations in this package, not by the help that typer prints, which changes with terminals and
versions: the text is the same on every machine.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any, get_args, get_type_hints

import typer.main

from pconv_cli.cli import ui
from pconv_cli.cli.app import app

COMMAND = "python -m pconv_cli.cli.reference > pconv_cli/COMMANDS.md"
"""What writes the file anew."""

_HEAD = f"""<!-- Made by `{COMMAND}`: change the commands, not this file. -->

# The commands of pconv

This page is generated from the program; `{COMMAND}` writes it anew.

Every command also takes `-h` or `--help`. `pconv --install-completion` teaches the shell in use (bash, zsh, fish,
PowerShell) to complete commands, options and their values, and `pconv --show-completion` prints what that would
install."""
_EVERYWHERE = {"help", "install_completion", "show_completion"}  # typer's own: told once, in the head
_NUMBERS: dict[Any, str] = {int: "N", float: "X", Path: "PATH", str: "TEXT"}


def reference() -> str:
    """Word all commands, without a newline at the end."""
    parts = [_HEAD]
    commands = list(_walk("pconv", typer.main.get_command(app)))
    parts.append("\n".join(f"- [`{name}`](#{name.replace(' ', '-')}): {_short(one)}" for name, one in commands[1:]))
    parts += [_section(name, one) for name, one in commands]
    return "\n\n".join(parts)


def _walk(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    """Go through a command and those below it, in the order of the help."""
    yield name, command
    for own, below in getattr(command, "commands", {}).items():
        yield from _walk(f"{name} {own}", below)


def _short(command: Any) -> str:
    return _escaped(command.short_help or _paragraphs(command.help)[0])


def _section(name: str, command: Any) -> str:
    shown = [one for one in command.params if one.name not in _EVERYWHERE]
    arguments = [one for one in shown if one.param_type_name == "argument"]
    options = [one for one in shown if one.param_type_name == "option"]
    below = getattr(command, "commands", {})
    usage = [name, *(["[OPTIONS]"] if options else []), *map(_argument, arguments), *(["COMMAND ..."] if below else [])]
    parts = [f"## {name}\n", f"```\n{' '.join(usage)}\n```\n"]
    parts += [f"{_escaped(text)}\n" for text in _paragraphs(command.help)]
    if arguments:
        parts.append("Arguments:\n")
        parts += [f"- `{_argument(one)}`: {_escaped(one.help or '')}" for one in arguments]
        parts.append("")
    if options:
        parts.append("Options:\n")
        parts += [_option(one, command) for one in options]
        parts.append("")
    if command.epilog:
        parts += [f"{_escaped(text)}\n" for text in _paragraphs(command.epilog)]
    return "\n".join(parts).rstrip("\n")


def _argument(argument: Any) -> str:
    name = str(argument.metavar or argument.name.upper())
    return name if argument.required or name.startswith("[") else f"[{name}]"


def _option(option: Any, command: Any) -> str:
    names = ", ".join(option.opts) + "".join(f" / {other}" for other in option.secondary_opts)
    kind, least, most = _declared(option, command)
    value = "" if option.is_flag else " " + (option.metavar or kind)
    facts = ["required"] if option.required else []
    facts += [f"at least {least}"] if least is not None and most is None else []
    facts += [f"at most {most}"] if most is not None and least is None else []
    facts += [f"{least} to {most}"] if least is not None and most is not None else []
    default = option.show_default if isinstance(option.show_default, str) else option.default
    if isinstance(default, Enum):
        default = default.value
    facts += [f"default `{default}`"] if default is not None and not option.is_flag else []
    known = f" ({', '.join(facts)})" if facts else ""
    return f"- `{names}{value}`{known}: {_escaped(option.help or '')}"


def _declared(option: Any, command: Any) -> tuple[str, Any, Any]:
    """Look up what stands for the value of an option, and its bounds, in the function behind the command."""
    hint = get_type_hints(inspect.unwrap(command.callback), include_extras=True)[option.name]
    while not hasattr(hint, "__metadata__"):  # Python 3.10 wraps what has None for a default
        hint = get_args(hint)[0]
    kind, details = get_args(hint)[0], hint.__metadata__[0]
    kind = next((one for one in get_args(kind) if one is not type(None)), kind)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return "|".join(str(one.value) for one in kind), None, None
    return _NUMBERS.get(kind, "VALUE"), details.min, details.max


def _paragraphs(text: str | None) -> list[str]:
    """Undo the folding of a docstring."""
    return [" ".join(part.split()) for part in inspect.cleandoc(text or "").split("\n\n")]


def _escaped(text: str) -> str:
    """Keep Markdown from reading anything into plain words; what stands between backticks is left alone."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else re.sub(r"([*<\[])", r"\\\1", part) for part in parts)


if __name__ == "__main__":
    ui.out(reference())
