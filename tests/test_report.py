"""The report: its verdicts on known answers, and its page in a browser."""

import html as escaping
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import xarray as xr

import actstore
from actstore import report
from actstore.errors import ActstoreError
from actstore.report.answers import MOST_EPOCHS, Answers, Setting, ask
from actstore.report.claims import HOLDS, NOT, UNTOLD, verdicts
from actstore.report.figures import legible
from actstore.storage.writer import RunWriter

from .command_line import Answer
from .planted_networks import record_networks
from .recordings import attributes, one_epoch, record

EVIL = "<img src=x onerror=\"document.title='stolen'\"></script><script>alert(1)</script>$\\frac{"
BARE, KEPT = 0, 1  # places of the settings of the answers made by hand


# verdicts on answers made by hand


def made(
    *,
    bare: float = 1.2,
    kept: float = 8.0,
    spread: float = 0.05,
    exponent: tuple[float, float, float] = (1.0, 0.95, 1.05),
    seeds: int = 1,
    train_error: float = 0.0,
    excess: tuple[float, float] = (1.0, 1.0),
    clone_epoch: float = 20,
    zero_epoch: float = 10,
    difference: tuple[float, float, float] = (-0.02, -0.03, -0.01),
    keys: str = "weight_decay",
) -> Answers:
    """Make answers about widths 8, 16, 32 without weight decay and with it."""
    widths = np.array([8, 16, 32])
    ratio = np.array([bare, kept])[:, None, None] * (widths / 32)[None, :, None]
    ratio = np.maximum(ratio, 1.0)
    nan = np.full((2, 1), np.nan)
    law = [np.where([[bare >= 2], [kept >= 2]], x, nan) for x in exponent]
    per_width, per_law = ("setting", "width", "threshold"), ("setting", "threshold")
    names = [f"{keys}=0", f"{keys}=1"]
    scaling = xr.Dataset(
        {
            "width_ratio": (per_width, ratio),
            "width_ratio_low": (per_width, ratio * (1 - spread)),
            "width_ratio_high": (per_width, ratio * (1 + spread)),
            "n_clones": (per_width, np.where(ratio >= 2, ratio, np.nan)),
            "has_clones": (per_width, ratio >= 2),
            "critical_size": (per_width, widths[None, :, None] / ratio),
            "exponent": (per_law, law[0]),
            "exponent_low": (per_law, law[1]),
            "exponent_high": (per_law, law[2]),
            "window_low": (per_law, np.full((2, 1), 8.0)),
            "window_high": (per_law, np.full((2, 1), 32.0)),
            "critical_width": (per_law, nan),
            "seeds": (("setting", "width"), np.full((2, 3), seeds)),
            "train_error": (("setting", "width"), np.full((2, 3), train_error)),
        },
        {"setting": names, "width": widths, "threshold": [0.95]},
    )
    sizes = np.array([1, 2, 4, 8, 16])
    by_rule = np.array(excess)[:, None] * np.ones((2, 5))
    noise = xr.Dataset(
        {
            "excess": (("run", "epoch", "factors", "subset_size"), np.stack([by_rule[None]] * 2)),
            "residual_correlation_heldout": (
                ("run", "epoch", "subset", "subset_size"), np.full((2, 1, 3, 5), 0.1)
            ),
            "sampling_floor": (("run", "epoch", "subset_size"), np.full((2, 1, 5), 0.02)),
            "count": (("run", "epoch"), np.full((2, 1), 1000)),
            "n_factors": (("run", "epoch", "factors"), np.full((2, 1, 2), 4)),
            "factors_converged": (("run", "epoch", "factors"), np.full((2, 1, 2), True)),
        },
        {"run": ["a", "b"], "epoch": [30], "factors": ["gap", "bic"], "subset_size": sizes},
    )  # fmt: skip
    noise["consistent"] = noise["excess"] <= 1.05
    epochs = np.array([0, 10, 20, 30])
    counted = np.where(epochs >= clone_epoch, [[bare], [kept]], 1.0)[:, :, None]
    error = np.where(epochs >= zero_epoch, 0.0, 0.3)
    dynamics = xr.Dataset(
        {
            "width_ratio": (("run", "epoch", "threshold"), counted),
            "has_clones": (("run", "epoch", "threshold"), counted >= 2),
            "alive": (("run", "epoch"), np.full((2, 4), 32)),
            "critical_size_low": (("run", "epoch", "threshold"), 32 / counted / (1 + spread)),
            "critical_size_high": (("run", "epoch", "threshold"), 32 / counted),
            "train_error": (("run", "epoch"), np.stack([error, error])),
            "interpolation_epoch": (
                ("run",),
                np.full(2, zero_epoch if zero_epoch < 40 else np.nan),
            ),
        },
        {"run": ["a", "b"], "epoch": epochs, "threshold": [0.95]},
    )
    contest = ("contest", "rival", "average")
    ensemble = xr.Dataset(
        {
            **{
                name: (contest, np.full((1, 1, 1), value))
                for name, value in zip(
                    ("difference", "difference_low", "difference_high"), difference, strict=True
                )
            },
            "error_rival": (contest, np.full((1, 1, 1), 0.1)),
            "p_value": (contest, np.full((1, 1, 1), 0.01)),
            "error_wide": (("contest",), [0.08]),
        },
        {"contest": [f"{names[KEPT]}: 4 x 8 against 32"], "rival": ["narrow ensemble"],
         "average": ["logits"], "wide_width": ("contest", [32]), "narrow_width": ("contest", [8]),
         "members": ("contest", [4])},
    )  # fmt: skip
    run: Any = [
        SimpleNamespace(name=name, width=32, seed=0, epochs=epochs) for name in ("a", "b")
    ]  # fmt: skip
    settings = [
        Setting(name, {keys: place}, {8: [run[place]], 16: [run[place]], 32: [run[place]]})
        for place, name in enumerate(names)
    ]
    found = {"scaling": scaling, "noise": noise, "dynamics": dynamics, "ensemble": ensemble}
    parameters = {"threshold": 0.95, "criterion": "heldout"}
    return Answers(settings, found, {"clones": "not asked"}, {}, parameters)


EXIST, GROWTH, NOISE, AFTER, NEEDED, WIDE = range(6)

#: claim, setting, answers, what must be said
CASES: list[tuple[int, int, dict[str, Any], str]] = [
    (EXIST, KEPT, {}, HOLDS),
    (EXIST, BARE, {}, NOT),
    (EXIST, KEPT, {"kept": 2.05, "spread": 0.1}, UNTOLD),
    (EXIST, KEPT, {"kept": 2.0, "spread": 0.0}, HOLDS),
    (GROWTH, KEPT, {}, HOLDS),
    (GROWTH, BARE, {}, NOT),
    (GROWTH, BARE, {"bare": 1.95}, UNTOLD),  # as whether there are any
    (GROWTH, KEPT, {"exponent": (0.5, 0.4, 0.6)}, NOT),
    (GROWTH, KEPT, {"exponent": (1.07, 1.03, 1.11)}, UNTOLD),
    (GROWTH, KEPT, {"exponent": (1.07, 1.03, 1.11), "seeds": 3}, NOT),
    (GROWTH, KEPT, {"exponent": (np.nan, np.nan, np.nan)}, UNTOLD),
    (NOISE, KEPT, {}, HOLDS),
    (NOISE, BARE, {}, UNTOLD),
    (NOISE, KEPT, {"excess": (1.8, 1.2)}, NOT),
    (NOISE, KEPT, {"excess": (1.8, 1.0)}, UNTOLD),
    (NOISE, KEPT, {"excess": (1.0, 1.8)}, UNTOLD),
    (AFTER, KEPT, {}, HOLDS),
    (AFTER, KEPT, {"spread": 1.2}, UNTOLD),  # there may have been two before
    (AFTER, BARE, {}, UNTOLD),
    (AFTER, KEPT, {"clone_epoch": 10}, UNTOLD),
    (AFTER, KEPT, {"clone_epoch": 10, "zero_epoch": 20}, NOT),
    (AFTER, KEPT, {"zero_epoch": 50}, NOT),
    (NEEDED, KEPT, {}, HOLDS),
    (NEEDED, BARE, {}, HOLDS),
    (NEEDED, KEPT, {"bare": 8.0}, NOT),
    (NEEDED, BARE, {"bare": 8.0}, NOT),
    (NEEDED, KEPT, {"bare": 1.95}, UNTOLD),  # as whether clones exist without it
    (NEEDED, BARE, {"bare": 2.05}, UNTOLD),
    (NEEDED, KEPT, {"kept": 1.0}, UNTOLD),
    (NEEDED, KEPT, {"train_error": 0.1}, UNTOLD),
    (NEEDED, KEPT, {"keys": "batch_size"}, UNTOLD),
    (WIDE, KEPT, {}, HOLDS),
    (WIDE, BARE, {}, UNTOLD),
    (WIDE, KEPT, {"difference": (0.02, 0.01, 0.03)}, NOT),
    (WIDE, KEPT, {"difference": (-0.01, -0.03, 0.01)}, UNTOLD),
]


@pytest.mark.parametrize(("claim", "setting", "options", "said"), CASES)
def test_a_verdict_follows_from_the_numbers(
    claim: int, setting: int, options: dict[str, Any], said: str
) -> None:
    verdict = verdicts(made(**options), setting)[claim]
    assert verdict.answer == said
    assert verdict.because or verdict.missing
    if said == UNTOLD:
        assert verdict.missing


def test_a_question_without_an_answer_leaves_its_claims_open_and_says_why() -> None:
    answers = made()
    for question, claims in {"scaling": [EXIST, GROWTH, NEEDED], "noise": [NOISE],
                             "dynamics": [AFTER], "ensemble": [WIDE]}.items():  # fmt: skip
        found = {k: v for k, v in answers.found.items() if k != question}
        without = Answers(answers.settings, found, {question: "the reason"}, {}, answers.parameters)
        for claim in claims:
            verdict = verdicts(without, KEPT)[claim]
            assert (verdict.answer, verdict.missing) == (UNTOLD, "the reason")


def test_residuals_are_judged_from_the_size_of_a_clone_on() -> None:
    answers = made()
    noise = answers.found["noise"]
    noise["consistent"] = noise["consistent"] & (noise["subset_size"] >= 4)  # critical size 4
    assert verdicts(answers, KEPT)[NOISE].answer == HOLDS
    noise["consistent"] = noise["consistent"] & (noise["subset_size"] != 8)
    assert verdicts(answers, KEPT)[NOISE].answer == NOT


# the page


class Elements(HTMLParser):
    """Every tag of a page with its attributes, and the text outside script and style."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._code = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep the tag."""
        self.tags.append((tag, dict(attrs)))
        self._code = tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        """End code."""
        self._code = False

    def handle_data(self, data: str) -> None:
        """Keep text that is not code."""
        if not self._code:
            self.texts.append(data)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> actstore.Store:
    """Two settings, one of them named by a stranger, seeds for an ensemble, a run just begun."""
    path = tmp_path_factory.mktemp("report") / "nets.zarr"
    record_networks(path, widths=(8, 16, 32), seeds=(0, 1), weight_decay=0.005, note="plain")
    record_networks(path, widths=(8, 16), seeds=(0,), weight_decay=0.0, note=EVIL)
    record(path, "begun", epochs=(), slots=3, complete=False, weight_decay=0.0, note="plain")
    return actstore.open(path)


@pytest.fixture(scope="module")
def page(store: actstore.Store) -> str:
    """Return the report on the store."""
    return report.html(store, subsets=4)


def test_the_page_judges_every_claim_for_every_setting(page: str) -> None:
    chips = re.findall(r'class="claim">([^<]*)</span> <span class="chip ([a-z-]+)', page)
    assert [claim for claim, _ in chips] == list(report.CLAIMS) * 2
    assert {said for _, said in chips} <= {"holds", "does-not-hold", "cannot-be-told"}


def test_the_page_needs_nothing_from_outside(page: str) -> None:
    for tag, held in Elements(page).tags:
        assert tag not in ("iframe", "object", "embed", "base")
        assert not (tag == "script" and held)
        for name in ("src", "href", "xlink:href", "srcset", "data", "poster"):
            value = held.get(name) or "#"
            assert value.startswith(("#", "data:")), (tag, value)
    assert not re.search(r"@import|url\((?!#)", page)


def test_names_and_attributes_of_strangers_are_text(page: str) -> None:
    elements = Elements(page)
    assert [tag for tag, _ in elements.tags].count("script") == 1
    assert not [tag for tag, held in elements.tags if "onerror" in held]
    assert EVIL in "".join(elements.texts)
    assert EVIL not in page


def test_headings_stand_above_their_numbers_and_verdicts_are_short(page: str) -> None:
    tables = re.findall(r'<table class="sortable".*?</table>', page, flags=re.DOTALL)
    assert len(tables) >= 5
    for table in tables:
        heads = re.findall(r'<th scope="col"( class=number)?><button[^>]*>([^<]*)<', table)
        rows = [
            re.findall(r'<td( class="number")?[^>]*>([^<]*)</td>', row)
            for row in re.findall(r"<tr><td.*?</tr>", table)
        ]
        assert rows
        for head, column in zip(heads, zip(*rows, strict=True), strict=True):
            numbers = [bool(number) for number, text in column if text]
            assert all(numbers) == bool(head[0])
            if head[1] == "verdict":
                assert {text for _, text in column if "null" not in text} <= {"consistent", ""}


def test_the_name_of_a_contest_is_whole_whatever_the_setting_is_called() -> None:
    names = [f"note={'long ' * 20}{n}, lr=0.1: 2 x {n} against {2 * n}" for n in (8, 16)]
    contest = legible(xr.Dataset(coords={"contest": names}))["contest"].values.tolist()
    assert [name.rpartition(": ")[2] for name in contest] == [
        "2 x 8 against 16",
        "2 x 16 against 32",
    ]
    assert max(map(len, contest)) < 60
    assert len(set(contest)) == 2


def test_ids_are_unique_and_every_reference_finds_one(page: str) -> None:
    ids = [a["id"] for _, a in Elements(page).tags if "id" in a]
    assert len(ids) == len(set(ids))
    wanted = re.findall(r'href="#([^"]+)"', page) + re.findall(r"url\(#([^)]+)\)", page)
    assert {escaping.unescape(name) for name in wanted} <= set(ids)


def test_a_run_that_has_only_begun_is_named_and_left_out(page: str) -> None:
    assert "begun (no epoch is committed yet)" in page


def test_dynamics_takes_few_epochs_and_those_about_zero_train_error(tmp_path: Path) -> None:
    writer = RunWriter.create(tmp_path / "long.zarr", "run", slots=60, attributes=attributes())
    for epoch in range(60):
        content = one_epoch(epoch)
        content["metrics"] = {"train_error": max(0.0, 1 - epoch / 37)}
        writer.write(epoch, **content)
    writer.close(complete=True)
    answers = ask(
        actstore.open(tmp_path / "long.zarr"), threshold=0.95, criterion="heldout", split="test",
        layer="last_hidden", subsets=2, rng_seed=0,
    )  # fmt: skip
    taken = answers.found["dynamics"]["epoch"].values
    assert len(taken) <= MOST_EPOCHS
    assert {0, 36, 37, 59} <= set(taken.tolist())


# in a browser

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
browser = pytest.mark.skipif(not BROWSER, reason="no chromium is installed to open the page in")

LISTEN = """<script>
window.problems = [];
addEventListener("error", e => problems.push(String(e.message)), true);
addEventListener("unhandledrejection", e => problems.push(String(e.reason)));
document.addEventListener("securitypolicyviolation", e => problems.push(e.violatedDirective));
for (const kind of ["error", "warn"]) console[kind] = (...said) => problems.push(said.join(" "));
</script>"""

LOOK = """<script>
addEventListener("load", () => {
  const sorted = {};
  for (const table of document.querySelectorAll("table.sortable")) {
    table.closest("details").open = true;
    sorted[table.id] = [...table.tHead.rows[0].cells].map((head, column) => {
      const read = () => [...table.tBodies[0].rows].map(row =>
        [row.cells[column].textContent, row.cells[column].dataset.order ?? null]);
      const click = () => { head.querySelector("button").click(); return head.ariaSort ?? head.getAttribute("aria-sort"); };
      return {up: click(), rising: read(), down: click(), falling: read()};
    });
  }
  const size = part => { const box = part.getBoundingClientRect(); return [box.width, box.height]; };
  const seen = {
    problems, sorted, title: document.title,
    figures: [...document.querySelectorAll("figure svg")].map(size),
    resources: performance.getEntriesByType("resource").map(entry => entry.name),
    needed: document.documentElement.scrollWidth, wide: document.documentElement.clientWidth,
    paper: getComputedStyle(document.body).backgroundColor,
    ink: getComputedStyle(document.body).color,
    verdicts: document.getElementById("table-verdicts").scrollWidth,
    room: document.getElementById("table-verdicts").parentElement.clientWidth,
  };
  const out = (window.parent === window ? document : parent.document).createElement("pre");
  out.id = "seen"; out.textContent = JSON.stringify(seen);
  (window.parent === window ? document : parent.document).body.append(out);
});
</script>"""  # noqa: E501 - one thing a line


def look(page: str, folder: Path, *flags: str, width: int = 0) -> Any:
    """Open a page in a headless browser, click on every heading, and say what is seen."""
    probed = page.replace("<head>", f"<head>{LISTEN}", 1).replace("</body>", f"{LOOK}</body>")
    if width:  # a window has a least width, a frame has none
        frame = f'<iframe style="width:{width}px;height:800px;border:0"'
        probed = f'<!DOCTYPE html><body>{frame} srcdoc="{escaping.escape(probed)}"></iframe>'
    (folder / "page.html").write_text(probed, encoding="utf-8")
    done = subprocess.run(
        [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
         f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=4000", *flags,
         "--dump-dom", (folder / "page.html").as_uri()],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    (seen,) = re.findall(r'<pre id="seen">(.*?)</pre>', done.stdout, re.DOTALL)
    return json.loads(escaping.unescape(seen))


@browser
def test_a_browser_shows_the_page_without_an_error_and_sorts_its_tables(
    page: str, tmp_path: Path
) -> None:
    seen = look(page, tmp_path)
    assert seen["problems"] == []
    assert seen["resources"] == []
    assert seen["title"] == "nets.zarr: what its networks show"
    assert len(seen["figures"]) >= 7
    assert all(wide > 300 and high > 100 for wide, high in seen["figures"])
    assert {"table-runs", "table-scaling", "table-noise", "table-ensemble"} <= set(seen["sorted"])
    for columns in seen["sorted"].values():
        for column in columns:
            assert (column["up"], column["down"]) == ("ascending", "descending")
            assert not _numbers(column["rising"]) or _numbers(column["rising"]) == sorted(
                _numbers(column["rising"])
            )
            assert _numbers(column["falling"]) == sorted(_numbers(column["falling"]), reverse=True)
            texts = [text for text, _ in column["rising"]]
            assert "" not in texts[: len([text for text in texts if text])]  # without a value: last


def _numbers(column: list[tuple[str, str | None]]) -> list[float]:
    return [float(order) for _, order in column if order is not None]


@browser
def test_a_phone_shows_the_page_without_scrolling_sideways(page: str, tmp_path: Path) -> None:
    seen = look(page, tmp_path, width=390)
    assert seen["problems"] == []
    assert seen["wide"] <= 390
    assert seen["needed"] <= seen["wide"]


@browser
def test_a_small_window_shows_the_verdict_on_every_claim(page: str, tmp_path: Path) -> None:
    seen = look(page, tmp_path, width=1000)
    assert seen["verdicts"] <= seen["room"]


@browser
def test_the_page_is_dark_where_the_reader_wants_it_dark(page: str, tmp_path: Path) -> None:
    def light(colour: str) -> float:
        return sum(map(int, re.findall(r"\d+", colour)[:3])) / 765

    bright = look(page, tmp_path)
    dark = look(page, tmp_path, "--blink-settings=preferredColorScheme=0")
    assert light(bright["paper"]) > 0.9 > 0.3 > light(bright["ink"])
    assert light(dark["paper"]) < 0.2 < 0.7 < light(dark["ink"])


# the command


def test_the_command_writes_what_the_library_returns(
    store: actstore.Store, page: str, tmp_path: Path, cli: Callable[..., Answer]
) -> None:
    answer = cli("report", store.path, "-o", tmp_path / "report.html", "--subsets", 4)
    assert (answer.code, answer.out) == (0, "")
    assert answer.err == f"wrote {tmp_path / 'report.html'}\n"
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == page
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["-o", "report.pdf"], 1, "ends in .html"),
        (["-o", "s3://bucket/report.html"], 1, "is at a URL; give a file of this machine"),
        (["-o", "nowhere/report.html"], 1, "there is no folder 'nowhere'"),
        (["-o", "r.html", "--threshold", "1.5"], 1, "1.5"),
        (["-o", "r.html", "--split", "valid"], 1, "no split 'valid', but test, train"),
        (["-o", "r.html", "--width", "9"], 1, "it holds width 8, 16, 32"),
        ([], 2, "Missing option"),
    ],
)
def test_a_wrong_request_is_refused_in_one_sentence(
    arguments: list[str], code: int, said: str, store: actstore.Store, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, cli: Callable[..., Answer],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    answer = cli("report", store.path, *arguments)
    assert answer.code == code
    assert said in answer.err
    assert list(tmp_path.iterdir()) == []


def test_a_store_without_an_epoch_says_so(tmp_path: Path) -> None:
    record(tmp_path / "begun.zarr", epochs=(), slots=2, complete=False)
    with pytest.raises(ActstoreError, match="nothing to report on: no epoch is committed yet"):
        report.html(actstore.open(tmp_path / "begun.zarr"))


def test_a_folder_is_refused_before_anything_is_computed(
    store: actstore.Store, tmp_path: Path, cli: Callable[..., Answer], monkeypatch: Any
) -> None:
    (tmp_path / "there.html").mkdir()
    monkeypatch.setattr("actstore.report.page.html", lambda *_, **__: pytest.fail("computed"))
    answer = cli("report", store.path, "-o", tmp_path / "there.html")
    assert answer.code == 1
    assert "is a folder; give another name" in answer.err
    monkeypatch.setattr("os.access", lambda _, mode: mode != os.W_OK)
    answer = cli("report", store.path, "-o", tmp_path / "new.html")
    assert answer.code == 1
    assert "where nothing may be written" in answer.err
