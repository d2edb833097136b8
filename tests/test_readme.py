"""The README tells the truth: its Python runs, prints what it shows, its links lead somewhere, its sizes are right."""

from __future__ import annotations

import io
import re
import sys
import tokenize
from pathlib import Path

import pytest

from minidl.engine import backend

ROOT = Path(__file__).resolve().parent.parent
PAGES = {name: (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "examples/README.md")}
NUMBER = re.compile(r"[-+]?\d+(?:\.\d*)?(?:e[-+]?\d+)?")
TOLERANCE = 1e-5  # of a shown number: NumPy's exp and sums may differ in the last digit of float32 between machines


# ---- blocks of code, and what they show --------------------------------------------------------------------------


def python_blocks(text):
    """Yield (number of its first line, source) of each Python block."""
    for match in re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield text[: match.start(1)].count("\n") + 1, match.group(1)


def comments_of(source):
    """Return {line: (text of its comment, whether the comment stands alone)}."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {
        t.start[0]: (t.string.removeprefix("#").removeprefix(" "), t.line.lstrip().startswith("#"))
        for t in tokens
        if t.type == tokenize.COMMENT
    }


def shown_at(comments, line):
    """Return what a page shows for the `print` of a line: the comment beside it, else those on the lines below it."""
    if line in comments:
        return comments[line][0]
    shown = []
    while comments.get(line + len(shown) + 1, ("", False))[1]:
        shown.append(comments[line + len(shown) + 1][0])
    return "\n".join(shown)


def run_page(text, name="README.md"):
    """Run all Python of a page in one namespace; return (line, printed, shown) for each line that prints."""
    results = []
    namespace = {"__name__": "readme"}
    for first, source in python_blocks(text):
        printed: dict[int, list[str]] = {}

        def note(*values, printed=printed):
            printed.setdefault(sys._getframe(1).f_lineno, []).append(" ".join(map(str, values)))

        namespace["print"] = note
        exec(compile("\n" * (first - 1) + source, name, "exec"), namespace)
        comments = {line + first - 1: comment for line, comment in comments_of(source).items()}
        results += [(line, "\n".join(texts), shown_at(comments, line)) for line, texts in sorted(printed.items())]
    return results


def agree(printed, shown):
    """Tell whether two texts are equal but for the last digits of their numbers, and for spaces."""
    if "".join(NUMBER.sub("0", printed).split()) != "".join(NUMBER.sub("0", shown).split()):
        return False
    pairs = zip(NUMBER.findall(printed), NUMBER.findall(shown), strict=True)
    return all(abs(float(a) - float(b)) <= TOLERANCE * max(abs(float(a)), abs(float(b))) for a, b in pairs)


def test_everything_that_the_readme_prints_is_what_it_shows():
    results = run_page(PAGES["README.md"])
    assert len(results) > 20
    wrong = [f"README.md:{line} prints\n{printed}\nand shows\n{shown}" for line, printed, shown in results]
    wrong = [text for text, (_, printed, shown) in zip(wrong, results, strict=True) if not agree(printed, shown)]
    assert not wrong, "\n\n".join(wrong)


@pytest.mark.parametrize(
    ("page", "agrees"),
    [
        ("```python\nprint(1.0)  # 1.0\n```\n", True),
        ("```python\nprint(1.0)  # 1.00000001\n```\n", True),
        ("```python\nprint(1.0)  # 1.1\n```\n", False),
        ("```python\nprint(1.0)\n```\n", False),
        ("```python\nprint('a')  # b\n```\n", False),
        ("```python\nfor i in (1, 2):\n    print(i)\n    # 1\n    # 2\n```\n", True),
        ("```python\nfor i in (1, 2):\n    print(i)  # 1\n```\n", False),
    ],
)
def test_a_wrong_number_on_a_page_is_found(page, agrees):
    ((_, printed, shown),) = run_page(page)
    assert agree(printed, shown) is agrees


def test_the_training_loop_of_the_readme_runs_on_the_gpu_with_one_word_changed(fake_cuda):
    tour = PAGES["README.md"].partition("**Saving.**")[0]
    assert 'device = "cpu"  # or "cuda"' in tour
    results = run_page(tour.replace('device = "cpu"', 'device = "cuda"'))
    assert [printed for _, printed, _ in results[-2:]] == ["True", "cuda:0 [1. 2.]"]


# ---- the rest of the page ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAGES)
def test_every_link_to_a_file_leads_somewhere(name):
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", PAGES[name])
    files = [target for target in targets if not target.startswith("http")]
    assert files
    assert [target for target in files if not ((ROOT / name).parent / target).exists()] == []


def test_every_file_that_the_readme_names_exists():
    named = re.findall(r"`((?:minidl|engine|tests|examples)/[\w/]+\.py)`", PAGES["README.md"])
    places = [ROOT / name if not name.startswith("engine/") else ROOT / "minidl" / name for name in named]
    assert len(places) > 4
    assert [place for place in places if not place.is_file()] == []


def test_the_sizes_that_the_readme_states_are_true():
    rows = re.findall(r"^\| (`.+?`) \|.*\| ([\d,]+) \|$", PAGES["README.md"], re.MULTILINE)
    assert len(rows) == 8
    for parts, stated in rows:
        files = []
        for part in re.findall(r"`(.+?)`", parts):
            place = ROOT / "minidl" / part
            files += place.rglob("*.py") if place.is_dir() else [place]
        lines = sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files)
        assert 2 / 3 < lines / int(stated.replace(",", "")) < 3 / 2, f"README.md: {parts} has {lines} lines by now"


def test_the_page_shows_a_picture_small_enough_for_a_page():
    pictures = re.findall(r"!\[[^\]]+\]\((docs/images/[^)]+)\)", PAGES["README.md"])
    assert pictures
    for picture in pictures:
        assert (ROOT / picture).stat().st_size < 150_000


def test_the_readme_leaves_no_gpu_behind():
    assert backend._cuda is None
