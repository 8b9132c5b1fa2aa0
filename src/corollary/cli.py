"""The command line. It imports nothing heavy until a command needs it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer

from corollary.errors import CorollaryError, printable

if TYPE_CHECKING:
    from corollary.run.recipe import Recipe

app = typer.Typer(
    name="corollary",
    help="Post-train language models: train it, trust it, tune it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
config_app = typer.Typer(help="Look at a configuration without running it.", no_args_is_help=True)
app.add_typer(config_app, name="config")

Source = Annotated[str, typer.Argument(metavar="CONFIG", help="a preset's name, or a YAML file")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="dotted overrides, such as run.steps=5")
]


@app.command()
def train(
    config: Source,
    overrides: Overrides = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="continue the run of that name from its newest checkpoint")
    ] = False,
) -> None:
    """Train by a recipe and measure before and after."""
    recipe = _recipe(config, overrides)
    from corollary.console import Live
    from corollary.run.loop import train as carry_out

    with Live(recipe.run.name) as console:
        folder = carry_out(recipe, console, resume=resume)
    _outcome(folder)


@app.command()
def demo(
    overrides: Overrides = None,
    seed: Annotated[int, typer.Option(help="of data order and sampling")] = 0,
) -> None:
    """Warm a small real model up on worked examples, then train it with GRPO, and measure what GRPO added."""
    from corollary.demo import run

    run(overrides or [], seed)


@app.command()
def evaluate(
    config: Source,
    overrides: Overrides = None,
    json_: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Measure a model on the held-out prompts of a recipe: set model.path to a hub id, a folder, or a run's model/."""
    recipe = _recipe(config, overrides)
    from corollary.console import Live, table
    from corollary.run.loop import measure_only

    with Live(recipe.run.name, quiet=json_) as console:
        result = measure_only(recipe, console)
    _show(result, table(result) if not json_ else None)


@app.command()
def pairs(
    config: Source,
    out: Annotated[Path, typer.Argument(help="the JSON Lines file to write; must not exist")],
    overrides: Overrides = None,
    answers: Annotated[int, typer.Option(min=2, help="to each prompt")] = 8,
    temperature: Annotated[float, typer.Option(min=0.01, help="of the sampling")] = 1.0,
    per_prompt: Annotated[int, typer.Option(min=1, help="pairs of each prompt at most, the widest apart first")] = 1,
) -> None:
    """Make preference pairs of a model's own answers, told apart by a recipe's rewards."""
    recipe = _recipe(config, overrides)
    from corollary.console import Live
    from corollary.run.pairing import Drawn, write_pairs

    drawn = Drawn(answers=answers, temperature=temperature, per_prompt=per_prompt)
    with Live(recipe.run.name) as console:
        made = write_pairs(recipe, out, drawn, console)
    print(f"{made['pairs']} pairs of {made['prompts']['kept']} prompts: {out}")


@app.command()
def benchmark(
    suite: Annotated[str, typer.Argument(help="a suite's name, such as quick or word-problems, or a YAML file")],
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL... [KEY=VALUE]...",
            help="names, folders, hub ids or runs' folders, the first of which the others are compared with; then overrides",
        ),
    ],
    json_: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Measure models on several sets, and compare them prompt by prompt: a table in Markdown."""
    from corollary.errors import ConfigError

    overrides = [text for text in models if "=" in text]
    names = [text for text in models if "=" not in text]
    if not names:
        raise ConfigError("no model is named", hint="corollary benchmark quick smollm2-135m-instruct")
    from corollary.config import load
    from corollary.console import Live
    from corollary.run.benchmark import SUITES, Suite, markdown
    from corollary.run.benchmark import benchmark as carry_out

    settings = load(Suite, suite, overrides, presets=SUITES).config
    with Live(suite, quiet=json_) as console:
        result = carry_out(settings, names, console)
    _show(result, None if json_ else markdown(result))


@app.command()
def report(run: Annotated[Path, typer.Argument(help="a run's folder")]) -> None:
    """Write a run's report.html anew."""
    from corollary.errors import DataError
    from corollary.run.report import write_report

    if not (run / "config.yaml").exists():
        raise DataError("is no run's folder: it holds no config.yaml", where=str(run))
    print(write_report(run))


@app.command()
def generate(
    model: Annotated[str, typer.Argument(help="a model's name, folder or hub id, or a run's folder")],
    prompt: Annotated[str, typer.Argument(help="what to say to it")],
    against: Annotated[str, typer.Option(help="a second model, for an answer side by side")] = "",
    system: Annotated[str, typer.Option(help="the system message")] = "",
    temperature: Annotated[float, typer.Option(min=0.0, help="0 takes the likeliest token")] = 0.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="of the answer")] = 256,
    seed: Annotated[int, typer.Option(min=0, help="of the sampling")] = 0,
) -> None:
    """Answer one prompt, streaming; with --against, two models side by side."""
    from corollary.chat import Talk

    talk = Talk([name for name in (model, against) if name], system, temperature, max_tokens, seed)
    talk.say(prompt)


@app.command()
def chat(
    model: Annotated[str, typer.Argument(help="a model's name, folder or hub id, or a run's folder")],
    against: Annotated[str, typer.Option(help="a second model, for answers side by side")] = "",
    system: Annotated[str, typer.Option(help="the system message")] = "",
    temperature: Annotated[float, typer.Option(min=0.0, help="0 takes the likeliest token")] = 0.7,
    max_tokens: Annotated[int, typer.Option(min=1, help="of an answer")] = 512,
    seed: Annotated[int, typer.Option(min=0, help="of the sampling")] = 0,
) -> None:
    """Talk with a model; an empty line or Ctrl-D ends it."""
    from corollary.chat import Talk

    talk = Talk([name for name in (model, against) if name], system, temperature, max_tokens, seed)
    talk.converse()


@app.command()
def serve(
    model: Annotated[str, typer.Argument(help="a model's name, folder or hub id, or a run's folder")],
    host: Annotated[str, typer.Option(help="to listen at; anything but loopback lets other machines in")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="to listen at; 0 takes a free one")] = 8000,
    model_name: Annotated[str, typer.Option(help="that clients know the model by; its own when left out")] = "",
    api_key: Annotated[
        str, typer.Option(envvar="COROLLARY_API_KEY", help="that clients must send; none when left out")
    ] = "",
    max_tokens: Annotated[int, typer.Option(min=1, help="of one answer")] = 1024,
    cache_tokens: Annotated[
        int, typer.Option(min=1, help="of prompts and answers at one time; it bounds the memory")
    ] = 32_768,
    seed: Annotated[int, typer.Option(min=0, help="of requests that give none")] = 0,
) -> None:
    """Let chat programs talk with a model: OpenAI's interface, on this machine alone."""
    from corollary.serving.server import serve as carry_out

    def announce(line: str) -> None:
        print(printable(line), flush=True)

    carry_out(
        model,
        host=host,
        port=port,
        name=model_name,
        api_key=api_key,
        max_tokens=max_tokens,
        cache_tokens=cache_tokens,
        seed=seed,
        announce=announce,
    )


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="a run's folder")],
    target: Annotated[Path, typer.Argument(help="what to write, a folder or FILE.gguf; must not exist")],
    format_: Annotated[
        Literal["folder", "gguf", "adapter"] | None,
        typer.Option(
            "--format", help="folder: for transformers, adapters merged; gguf: for llama.cpp; adapter: for peft"
        ),
    ] = None,
    dtype: Annotated[Literal["f16", "bf16", "f32"], typer.Option(help="of a GGUF file's matrices")] = "f16",
) -> None:
    """Write the newest checkpoint of a run for others to load."""
    from corollary.run.exporting import export_run

    form = format_ or ("gguf" if target.suffix == ".gguf" else "folder")
    print(export_run(run, target, form=form, dtype=dtype))


@app.command()
def losses(
    name: Annotated[str, typer.Argument(help="one formula, or a family; all when left out")] = "",
    inputs: Annotated[bool, typer.Option("--inputs", help="list the inputs that each family gives instead")] = False,
    json_: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """List every formula: losses, KL estimators, advantages, corrections, averages, metrics."""
    from corollary.catalogue import inputs_table, one, rows, table

    if inputs:
        return _show(inputs_table(), None if json_ else table(("family", "inputs"), inputs_table()))
    found = rows(name)
    text = one(found[0]) if len(found) == 1 else table(("family", "name", "parameters", "summary"), found)
    _show(found, None if json_ else text)


@app.command()
def check(
    loss: Annotated[str, typer.Argument(help="path/to/file.py:name, or a name of `corollary losses`")] = "",
    parameters: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME=VALUE]...", help="parameters other than the defaults")
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="every formula of the library")] = False,
    objective: Annotated[
        bool, typer.Option("--objective", help="enumerate the expected gradient, and say what the loss really ascends")
    ] = False,
    against: Annotated[
        str, typer.Option(help="with --objective: J, reverse_kl, forward_kl, pass@k, or file.py:function")
    ] = "",
    advantage: Annotated[str, typer.Option(help="with --objective")] = "leave_one_out",
    average: Annotated[str, typer.Option(help="with --objective")] = "constant",
    group_size: Annotated[int, typer.Option(min=2, help="with --objective: answers per prompt")] = 2,
    family: Annotated[str, typer.Option(help="where neither a declaration nor the inputs show it")] = "",
    json_: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Hold a loss to the contract: every clause measured on generated batches; exit status 1 if one fails."""
    if bool(loss) == all_:
        raise typer.BadParameter("give one loss, or --all")
    if not objective and (against or (advantage, average, group_size) != ("leave_one_out", "constant", 2)):
        raise typer.BadParameter("--against, --advantage, --average and --group-size go with --objective")
    from corollary.catalogue import check_all, check_one, examined

    if all_:
        reports, text = check_all(lambda line: None if json_ else print(line, flush=True))
        _show([r.to_dict() for r in reports], None if json_ else text)
        failed = any(r.failed for r in reports)
    else:
        settings = {"advantage": advantage, "average": average, "against": against or None, "group_size": group_size}
        report = (
            examined(loss, parameters or [], **settings)
            if objective
            else check_one(loss, parameters or [], family or None)
        )
        _show(report.to_dict(), None if json_ else report.text())
        failed = report.failed
    raise typer.Exit(int(failed))


@app.command()
def prove(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME]...", help="names, labels such as B5 or B5.c, a page, or file.py:name; all when left out"
        ),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="statement, proof, experiment and figure of each instead of the table")
    ] = False,
    list_: Annotated[bool, typer.Option("--list", help="name them, and measure nothing")] = False,
    world: Annotated[
        list[str] | None,
        typer.Option(
            help="another world: vocabulary=4, depth=2, arms=5, states=6, actions=2, discount=0.8, or file.py:name"
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="of the first lab")] = 0,
    seeds: Annotated[int, typer.Option(min=1, help="how many labs, each with a seed of its own")] = 1,
    json_: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Measure the theorems, and their broken twins, in exact worlds; exit status 1 if one does not hold or a twin does."""
    if json_ and (explain or list_):
        raise typer.BadParameter("--json goes with the table, not with --explain or --list")
    if explain and seeds > 1:
        raise typer.BadParameter("--explain shows one lab: give it by --seed")
    from corollary.theory import proving

    asked = names or []
    if list_:
        print(proving.listed(asked))
        return
    labs = proving.labs(world or [], seed=seed, seeds=seeds)
    if explain:
        for found in proving.chosen(asked):
            print(proving.explained(found, labs[0]) + "\n")
        return
    outcome = proving.carry_out(asked, labs, lambda line: None if json_ else print(line, flush=True))
    _show(outcome.to_dict(), None if json_ else outcome.text())
    raise typer.Exit(int(outcome.failed))


@app.command()
def validate(
    run: Annotated[Path, typer.Argument(help="a run's folder")],
    json_: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Hold the theory against what a run recorded, with the theorem of each check; exit status 1 if one is red."""
    from corollary.validate.run import validate as carry_out

    found = carry_out(run)
    _show(found.to_dict(), None if json_ else found.text())
    raise typer.Exit(int(found.failed))


@app.command()
def models(json_: Annotated[bool, typer.Option("--json", help="print JSON")] = False) -> None:
    """List the models and data sets that need nothing but a package index."""
    from corollary.models.catalogue import entries

    if json_:
        _show(
            [dict(zip(("name", "kind", "download", "licence", "description"), e.row(), strict=True)) for e in entries()]
        )
        return
    rows = [("name", "kind", "download", "licence", "description"), *(entry.row() for entry in entries())]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    for row in rows:
        print("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[4]]))


@config_app.command("show")
def config_show(config: Source, overrides: Overrides = None) -> None:
    """Print every setting of a recipe, resolved."""
    from corollary.config import to_yaml

    print(to_yaml(_recipe(config, overrides)), end="")


@config_app.command("diff")
def config_diff(config: Source, overrides: Overrides = None) -> None:
    """Print what a recipe sets other than the defaults."""
    from corollary.config import diff, to_yaml

    print(to_yaml(diff(_recipe(config, overrides))), end="")


@config_app.command("validate")
def config_validate(config: Source, overrides: Overrides = None) -> None:
    """Check a recipe; list every mistake at once."""
    _recipe(config, overrides)
    print(f"{printable(config)}: valid")


@config_app.command("schema")
def config_schema() -> None:
    """Print the JSON schema of recipes, for editors."""
    from corollary.config import schema
    from corollary.run.recipe import Recipe

    _show(schema(Recipe))


@config_app.command("presets")
def config_presets() -> None:
    """List the presets."""
    from corollary.config import preset_names
    from corollary.run.recipe import PRESETS

    print("\n".join(preset_names(PRESETS)))


def _recipe(source: str, overrides: list[str] | None) -> Recipe:
    from corollary.config import load
    from corollary.run.recipe import PRESETS, Recipe

    return load(Recipe, source, overrides or (), presets=PRESETS).config


def _outcome(folder: Path) -> None:
    from corollary.console import outcome

    print(outcome(folder))


def _show(data: object, text: str | None = None) -> None:
    import json

    print(text if text is not None else json.dumps(data, indent=2, ensure_ascii=False))


def main() -> NoReturn:
    """Run a command; a user's mistake ends in one line and the exit status of its kind, never in a traceback."""
    try:
        status = app(standalone_mode=False)
        sys.exit(status if isinstance(status, int) else 0)
    except CorollaryError as error:
        sys.exit(_failed(error))
    except typer.Abort:
        sys.exit(130)
    except Exception as fault:  # the parser's own usage errors know how to show themselves
        usage: Any = fault
        if not hasattr(usage, "exit_code"):
            raise
        usage.show()
        sys.exit(usage.exit_code)
    except KeyboardInterrupt:
        print("error[E1300] interrupted; what was committed before is kept", file=sys.stderr)
        sys.exit(130)


def _failed(error: CorollaryError) -> int:
    from corollary.config import InvalidConfig

    if isinstance(error, InvalidConfig):
        for problem in error.problems[1:]:
            print(f"  {printable(str(problem))}", file=sys.stderr)
    print(error.line(), file=sys.stderr)
    return error.exit_status
