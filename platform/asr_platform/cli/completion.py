"""Shell completion: the values that a shell offers for arguments, and the command that prints its script.

Completion must be fast: values are listed from folders, and nothing slow is imported.
"""

from __future__ import annotations

from pathlib import Path

import click
from click.shell_completion import CompletionItem, get_completion_class

import search_spaces

PLACES = {
    "bash": ("~/.platform-completion.bash", "in ~/.bashrc: . ~/.platform-completion.bash"),
    "zsh": ("~/.platform-completion.zsh", "in ~/.zshrc, after compinit: . ~/.platform-completion.zsh"),
    "fish": ("~/.config/fish/completions/platform.fish", "fish finds it there"),
}


def sweep_names(context: click.Context, parameter: click.Parameter, begun: str) -> list[str]:
    """Names of the home's sweeps that begin with `begun`."""
    return _names(_home(context) / "sweeps", begun)


def trial_numbers(context: click.Context, parameter: click.Parameter, begun: str) -> list[str]:
    """Numbers of trials that begin with `begun`, of the sweep that the argument `name` names."""
    folders = _names(_home(context) / "sweeps" / str(context.params.get("name")) / "trials", "trial-")
    numbers = [str(int(name.removeprefix("trial-"))) for name in folders]
    return [number for number in numbers if number.startswith(begun)]


def spaces(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Shipped spaces whose names begin with `begun`; files if there is none."""
    shipped = sorted(path.stem for folder in search_spaces.__path__ for path in Path(folder).glob("shipped/[!.]*.yaml"))
    found = [CompletionItem(name) for name in shipped if name.startswith(begun)]
    return found or [CompletionItem(begun, type="file")]


def _home(context: click.Context) -> Path:
    return Path(context.find_root().params.get("home") or "mlruns")


def _names(folder: Path, begun: str) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name.startswith(begun))


@click.command()
@click.argument("shell", type=click.Choice(list(PLACES)))
def completion(shell: str) -> None:
    """Prints the script that completes commands, sweeps and spaces.

    The first lines of the script say where to save it, and how to load it.

    \b
    For example:
      platform completion bash
    """
    found = get_completion_class(shell)
    assert found is not None
    script = found(click.get_current_context().find_root().command, {}, "platform", "_PLATFORM_COMPLETE").source()
    file, then = PLACES[shell]
    note = f"# platform completion {shell} > {file}\n# {then}\n"
    click.echo(f"{note}{script}", nl=False)
