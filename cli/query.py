"""``actstore query QUESTION STORE``: one command a question."""

from __future__ import annotations

import dataclasses
import json
import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import click

from . import output
from .echo import echo
from .groups import Group
from .loading import libraries
from .options import (
    check_workers,
    chosen_by,
    compute_options,
    counted,
    epochs,
    output_options,
    parse_value,
    selection_options,
)
from .questions import LEAD, QUESTIONS, Question
from .sections import OneStore
from .table import WIDTH, Rows, table, unnamed
from .waiting import waiting

#: columns of the law of the error of subsets
SIZE_LAW = ("split", "gamma…", "error_inf", "window_low", "window_high")
#: of an interval, beside the value
_ENDS = ("", "_low", "_high")
HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


def build(question: Question) -> click.Command:
    """Build the command of a question."""

    def run(store: str, **options: Any) -> None:
        ask(question, store, **options)

    run.__doc__ = question.text
    decorated: Callable[..., Any] = compute_options(cached=question.cached)(run)
    decorated = output_options(decorated)
    for option in reversed(question.options):
        decorated = option(decorated)
    decorated = selection_options(question.epoch)(decorated)
    decorated = click.argument("store", type=click.Path())(decorated)
    return click.command(
        question.name, cls=OneStore, short_help=question.asks, context_settings=HELP
    )(decorated)


def ask(
    question: Question,
    path: str,
    *,
    form: str,
    plot: str | None,
    explain: bool,
    workers: int | None,
    scheduler: str | None,
    memory: str | None,
    **options: Any,
) -> None:
    """Answer a question: select, compute what the rows show, print, save and draw."""
    check_workers(workers, scheduler)
    saved = options.pop("output")
    output.check_output(saved)
    output.check_plot(plot)
    with libraries():
        import actstore
        from actstore.queries.explain import answer_within
        from actstore.queries.table import rows

    from . import compute

    store = selected(path, options)
    if "subset_size" in options:
        options["subset_size"] = _sizes(options["subset_size"])
    if "factors" in options:
        options["factors"] = _factors(options["factors"])
    if isinstance(options.get("error_inf"), str):
        options["error_inf"] = parse_value(options["error_inf"])
    if options.get("splits") is not None:
        options["splits"] = options["splits"].split(",")
    if options.get("window") is not None:
        options["window"] = tuple(options["window"])
    full = bool(saved or plot)
    with compute.crew(workers, scheduler) as crew, compute.planning():
        bounds = crew.bounds(memory)
        if explain:
            _explain(actstore.explain(store, question.name, full=full, **bounds, **options), form)
            return
        with waiting("planning"):
            asked = answer_within(store, question.name, full=full, **bounds, **options)
        with crew.at_work(asked.budget.workers):
            answer = asked.wanted.compute()
    found = rows(answer) if saved or form in ("json", "csv") else []
    parameters = {k: v for k, v in asked.result.attrs.items() if k != "query"}
    if form == "table":
        echo(table_of(question, answer))
    else:
        output.write_rows(found, form, query=question.name, parameters=parameters)
    if saved:
        output.save(saved, answer, found, parameters)
    if plot:
        _draw(question.name, answer, plot)


def selected(path: str, options: dict[str, Any]) -> Any:
    """Open a store and narrow it to what the options of a selection say, which are taken out."""
    import actstore

    chosen = chosen_by(*(options.pop(key) for key in ("width", "seed", "where")))
    named, epoch = list(options.pop("run")) or None, epochs(options.pop("epoch"))
    with waiting("opening"):
        store = actstore.open(path).sel(**{"run": named, **chosen})
        # a run that has only begun has no epoch to choose; the others are asked
        return store.narrow(lambda run: run.select(epoch) if len(run.committed) else run)


def _explain(plan: Any, form: str) -> None:
    facts = dataclasses.asdict(plan)
    if form == "json":
        click.echo(json.dumps(facts, indent=1))
    elif form == "csv":
        output.write_rows([facts], form, query=plan.query, parameters={})
    else:
        echo(str(plan))


def table_of(question: Question, answer: Any) -> str:
    """Return the rows of a computed answer as a person wants to see them."""
    tables = [
        text for columns in question.tables for text in _tables(_needed(answer, columns), columns)
    ]
    if question.name == "error":
        tables.append(_size_law(answer))
    return "\n\n".join(tables or ["no rows"]) + _footer(question.name, answer)


def _tables(answer: Any, columns: Sequence[str]) -> Iterator[str]:
    """Set the rows of an answer, a table for all variables that share dims."""
    from actstore.queries.table import frames, records

    settings = _settings(answer)
    names = [c for name in columns for c in (settings if name == "*" else [name])]
    for found in map(records, frames(answer)):
        if found:
            leading = ["run"] if unnamed(found, settings) else []
            yield table(_worded(found), [*leading, *names], settings=["setting", *settings])


def _needed(answer: Any, columns: Sequence[str]) -> Any:
    """Return the variables of these columns, whose dims alone make rows."""
    ends = [f"{name[:-1]}{end}" for name in columns if name.endswith("…") for end in _ENDS]
    return answer[[name for name in (*columns, *ends) if name in answer.data_vars]]


def _size_law(answer: Any) -> str:
    """Return γ of the error of subsets, never without its window and interval."""
    law = _needed(answer, SIZE_LAW)
    if bool(law["gamma"].isnull().all()):
        return "error - error_inf ~ size^-gamma: these sizes do not tell gamma"
    return "\n\n".join(["error - error_inf ~ size^-gamma", *_tables(law, (*LEAD, *SIZE_LAW))])


def _settings(answer: Any) -> list[str]:
    """Return the hyper-parameters of the answer."""
    extra = [str(k) for k, c in answer.coords.items() if c.dims in (("run",), ("setting",))]
    return [k for k in extra if k not in ("run", "setting", *LEAD)]


def _worded(rows: Rows) -> Rows:
    """Shorten the verdicts on the noise to what has room in a table; its footer has the words."""
    long = {
        " with independent noise": "",
        " x the null": " × null",
        ", whose fit did not converge": "?",
    }
    for row in rows:
        for words, short in long.items() if row.get("verdict") else ():
            row["verdict"] = row["verdict"].replace(words, short)
    return rows


def _footer(question: str, answer: Any) -> str:
    if question == "ensemble":
        return f"\n\n{textwrap.fill(_contests(answer), WIDTH)}"
    if question != "scaling":
        return _against_null(answer) + _criterion(answer)
    lines = []
    for setting in answer["setting"].values:
        for threshold in answer["threshold"].values:
            one = answer.sel(setting=setting, threshold=threshold)
            lines.append(f"{setting}, R² ≥ {threshold:g}: {_growth(one)}")
    logged = answer["gamma_window_low"].notnull()
    lines += [
        _decay(answer.sel(setting=setting), answer.attrs["split"])
        for setting in answer["setting"].values[logged.values]
    ]
    lines = [textwrap.fill(line, WIDTH, subsequent_indent="  ") for line in lines]
    return "\n\n" + "\n".join(lines) + _criterion(answer)


def _contests(answer: Any) -> str:
    if "winner" not in answer:
        return "no contest: it takes K seeds of a width w and a run of width K·w in one setting"
    return (
        "winner: whose error is less by more than the 95 % interval of the difference; the p value "
        "is that of McNemar's exact test, which asks for more"
    )


def _against_null(answer: Any) -> str:
    if "excess" not in answer:
        return ""
    said = (
        "verdict: consistent with independent noise up to 1.05 × the matched null or its 95 % "
        "point, else how many times the null; '?' where the fit did not converge"
    )
    return f"\n\n{textwrap.fill(said, WIDTH)}"


def _growth(one: Any) -> str:
    if not bool(one["has_clones"].any()):
        return "no clones at any width"
    low, high = float(one["window_low"]), float(one["window_high"])
    slope = one["exponent"]
    if not bool(slope.notnull()):
        widths = counted(int(one["has_clones"].sum()), "width")
        return f"clones at {widths}, too few for an exponent"
    text = (
        f"n_clones ~ width^{float(slope):.2f} "
        f"({float(one['exponent_low']):.2f}…{float(one['exponent_high']):.2f}) "
        f"over widths {low:g}…{high:g}"
    )
    bend = float(one["critical_width"])
    return text + (f"; critical width {bend:.3g}" if bend == bend else "")


def _decay(one: Any, split: str) -> str:
    gamma, low, high = (float(one[f"gamma{end}"]) for end in ("", "_low", "_high"))
    known = "" if gamma == gamma else " cannot be told"
    # not "width^-0.83 (0.31…1.57)": the interval is that of gamma, and has no minus
    law = f" ~ width^-gamma, gamma {gamma:.2f} ({low:.2f}…{high:.2f})" if gamma == gamma else ""
    window = f"{float(one['gamma_window_low']):g}…{float(one['gamma_window_high']):g}"
    inf = f", error_inf {float(one['error_inf']):.4g}" if gamma == gamma else ""
    return f"{one['setting'].item()}, {split} error - error_inf{known}{law} over {window}{inf}"


def _criterion(answer: Any) -> str:
    if "criterion" not in answer.attrs:
        return ""
    outside = answer.attrs["criterion"] == "heldout"
    words = "held-out R² (neurons outside the subset)" if outside else "R² of all neurons (paper)"
    return f"\n\ncriterion: {words}\nn_clones = alive neurons / critical size; none below 2"


def _draw(question: str, answer: Any, path: str) -> None:
    from actstore import plotting

    plotting.save(question, answer, path)
    echo(f"drew {path}", err=True)


def _factors(text: str) -> int | str | list[int | str] | None:
    if text == "none":
        return None
    parts: list[int | str] = [int(p) if p.isdecimal() else p for p in text.split(",")]
    return parts[0] if len(parts) == 1 else parts


def _sizes(text: str | None) -> list[int] | str | None:
    if text is None or text == "all":
        return text
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is not a number, or several as 8,16,32", param_hint="--subset-size"
        ) from None


@click.group("query", cls=Group, context_settings=HELP)
def command() -> None:
    """Answer a question about the runs of a store.

    The answer goes to stdout, everything else to stderr. Each question takes the last epoch of
    each run unless --epoch says otherwise.

    \b
    actstore query scaling digits.zarr --threshold 0.98
    actstore query clones digits.zarr --width 256 --format json
    """


for _question in QUESTIONS:
    command.add_command(build(_question))
