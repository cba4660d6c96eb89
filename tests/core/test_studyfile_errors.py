"""Bad study files: one sentence that says what, where and what is right."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from puzzle_study import datasets
from puzzle_study.config import read
from puzzle_study.errors import UserError

DATA = "data: {name: digits}\n"


def failure(tmp_path: Path, text: str | bytes, *, assignments: Sequence[str] = (), quick: bool = False) -> str:
    """The sentence with which a study file is refused; FILE stands for its path."""
    path = tmp_path / "study.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError) as caught:
        read.load(path, assignments=assignments, quick=quick)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence.replace(str(path), "FILE")


def says(sentence: str, words: str) -> bool:
    """Whether a sentence has these words in this order; an ellipsis stands for anything between them."""
    return re.search(".*".join(map(re.escape, words.split(" … "))), sentence) is not None


def space(*axes: str) -> str:
    """A search, whose first axis is in line 4 of the file."""
    return DATA + "search:\n  space:\n" + "".join(f"    {axis}\n" for axis in axes)


# What is wrong, by its line and the words that a sentence has about it.
CASES: dict[str, tuple[str, int, str]] = {
    # unknown keys
    "near": (DATA + "train:\n  epoch: 3\n", 3, "`train.epoch` is not a setting; did you mean train.epochs?"),
    "near section": ("trian: {epochs: 3}\ndata: {name: digits}\n", 1, "`trian` … mean train?"),
    "elsewhere": (DATA + "lambda: 0.1\n", 2, "`lambda` … mean train.lambda?"),
    "deep": (DATA + "train:\n  adversary:\n    epsilom: 0.1\n", 4, "`train.adversary.epsilom` … adversary.epsilon?"),
    "Python's name": (DATA + "train: {lambda_: 3}\n", 2, "`train.lambda_` … mean train.lambda?"),
    "mistyped leaf of a section": (DATA + "epoch: 3\n", 2, "`epoch` … mean train.epochs?"),
    "leaf of a deeper section": (DATA + "train: {epsilon: 0.1}\n", 2, "`train.epsilon` … train.adversary.epsilon?"),
    "leaf of another section": (DATA + "model: {epochs: 3}\n", 2, "`model.epochs` … mean train.epochs?"),
    "akin beside the same leaf": ("data: {name: digits, seed: 1}\n", 1, "`data.seed` … mean data.split_seed?"),
    "far": (DATA + "resources: {xyz: 3}\n", 2, "`resources.xyz` is not a setting; allowed here: cpu, gpu"),
    "nothing as a key": (DATA + "train: {~: 3}\n", 2, "`train.None` is not a setting"),
    "a number as a key": (DATA + "train: {1.5: 3}\n", 2, "`train.1.5` is not a setting"),
    "a merge key written out": (DATA + "train: {<<: {epochs: 3}}\n", 2, "`train.<<` is not a setting"),
    # missing
    "no data": ("train: {epochs: 3}\n", 1, "`data` is missing; … digits"),
    "no name": ("data: {size: 16}\n", 1, "`data.name` is missing; it is one of … brain_mri, folder"),
    "no space": (DATA + "search: {seed: 1}\n", 2, "`search.space` is missing"),
    # types
    "text for a number": (DATA + "train: {epochs: many}\n", 2, "`train.epochs` … integer … 'many'"),
    "a part for a whole": (DATA + "train: {epochs: 2.5}\n", 2, "`train.epochs` … integer … 2.5"),
    "a boolean for a number": (DATA + "train: {epochs: true}\n", 2, "`train.epochs` … integer, got True"),
    "a number for text": (DATA + "name: 5\n", 2, "`name` must be a valid string, got 5"),
    "a number for a list": (DATA + "seeds: 3\n", 2, "`seeds` must be a list, got 3"),
    "text in a list": (DATA + "seeds: [0, a]\n", 2, "`seeds[1]` must be a valid integer, got 'a'"),
    "text for a section": ("data: digits\n", 1, "`data` must be a section of settings, got 'digits'"),
    "text for a boolean": (DATA + "puzzle: {per_batch: yes}\n", 2, "`puzzle.per_batch` … boolean, got 'yes'"),
    # ranges
    "negative": (DATA + "train: {epochs: -1}\n", 2, "`train.epochs` must be greater than or equal to 0, got -1"),
    "too large": (DATA + "train: {adversary: {epsilon: 300/255}}\n", 2, "`train.adversary.epsilon` must be less"),
    "division by zero": (DATA + "train: {adversary: {epsilon: 8/0}}\n", 2, "epsilon` … valid number, got '8/0'"),
    "in a list": (DATA + "attacks:\n  epsilons:\n  - 0.1\n  - 2\n", 5, "`attacks.epsilons[1]` … equal to 1, got 2"),
    "too small an image": ("data: {name: digits, size: 8}\n", 1, "`data.size` … equal to 16, got 8"),
    "seed": (DATA + "seeds: [0, 18446744073709551616]\n", 2, "`seeds[1]` … 4294967295, got 18446744073709551616"),
    "seed of the splits": ("data: {name: digits, split_seed: 4294967296}\n", 1, "`data.split_seed` … 4294967295, got"),
    "long name": (DATA + f"name: {'a' * 201}\n", 2, "`name` should have at most 200 characters, got"),
    "two words as a name": (DATA + "name: a b\n", 2, "`name` should match … 'a b'"),
    "one of two": (DATA + "puzzle: {grid: 5}\n", 2, "`puzzle.grid` must be 2 or 3, got 5"),
    "near choice": ("data: {name: digitz}\n", 1, "`data.name` must be one of 'digits', … mean digits?"),
    "far choice": ("data: {name: xyz}\n", 1, "`data.name` must be one of 'digits', 'mnist', … got 'xyz'"),
    "empty list": (DATA + "seeds: []\n", 2, "`seeds` should have at least 1 item, not 0, got a list"),
    "no permutation": (DATA + "score: {permutations: 0}\n", 2, "`score` … permutations must be `all` or at least 1"),
    "seed twice": (DATA + "seeds: [1, 0, 1]\n", 2, "`seeds` … it names 1 twice; leave one out"),
    "reference twice": (DATA + "references: [pca, pca]\n", 2, "`references` … pca twice"),
    "class twice": ("data: {name: digits, normal_classes: [3, 3]}\n", 1, "`data.normal_classes` … 3 twice"),
    # axes
    "empty space": (DATA + "search: {space: {}}\n", 2, "`search.space` should have at least 1 … a section"),
    "log from zero": (space("train.lambda: {log_uniform: [0, 1]}"), 4, "search.space.train.lambda` … low > 0, got 0.0"),
    "upside down": (space("train.lambda: {uniform: [1, 0.5]}"), 4, "`search.space.train.lambda` … low < high, got 1.0"),
    "two ranges": (space("train.lambda: {choice: [1], uniform: [0, 1]}"), 4, "exactly one of … got choice, uniform"),
    "no range": (space("train.lambda: {}"), 4, "exactly one of … got none"),
    "unknown range": (space("train.lambda: {loguniform: [0.1, 1]}"), 4, "train.lambda.loguniform` … log_uniform"),
    "guessed axis": (space("train.lambda: [0.1, 1]"), 4, "`search.space.train.lambda` must be a section of settings"),
    "empty choice": (space("train.lambda: {choice: []}"), 4, "`search.space.train.lambda.choice` … at least 1 item"),
    "unknown axis": (space("train.lamda: {uniform: [0, 1]}"), 4, "`train.lamda` is not a setting … mean train.lambda?"),
    "section as axis": (space("train: {grid: [0.1]}"), 4, "`train` is not a setting of a configuration"),
    "leaf as axis": (space("epsilon: {grid: [0.1]}"), 4, "`epsilon` is not a setting … mean train.adversary.epsilon?"),
    "axis of the study": (space("max_concurrent: {choice: [1]}"), 4, "`max_concurrent` is not a setting of a configur"),
    "axis of places": (space("data.root: {choice: [a, b]}"), 4, "`data.root` does not affect training: it says where"),
    "axis of tasks": (space("data.repeats: {choice: [1, 2]}"), 4, "`data.repeats` … how many tasks there are"),
    "axis of the evaluation": (space("evaluate.every: {choice: [1, 5]}"), 4, "`evaluate.every` does not affect"),
    "axis of the attack": (space("evaluate.robust.epsilon: {choice: [0.1]}"), 4, "robust.epsilon` does not affect"),
    "axis out of range": (space("train.lambda: {uniform: [0, 1000]}"), 4, "`train.lambda` … to 100, got 1000.0"),
    "axis of no such choice": (space("score.aggregation: {choice: [mean]}"), 4, "`score.aggregation` … 'min' … 'mean'"),
    "grid of a range": (
        DATA + "search: {algorithm: grid, space: {train.lambda: {uniform: [0, 1]}}}\n", 2,
        "`train.lambda` is uniform; `algorithm: grid` needs `grid` or `choice`",
    ),
    "axis twice": (space("train.lambda: {grid: [1]}", "train.lambda: {grid: [2]}"), 5, "train.lambda` is given twice"),
    # conditions
    "unknown condition": (
        space("train.lambda: {uniform: [0, 1], when: {train.schedul: [plateau]}}"), 4,
        "`train.schedul` is not a setting … mean train.schedule?",
    ),
    "condition out of range": (
        space("train.plateau_factor: {uniform: [0.1, 0.9], when: {train.schedule: [platau]}}"), 4,
        "`train.plateau_factor` has a value that … `train.schedule` … 'plateau' … 'platau'",
    ),
    "condition on itself": (
        space("train.lambda: {uniform: [0.1, 0.2], when: {train.lambda: [0.15]}}"), 4,
        "`train.lambda` depends on itself",
    ),
    "conditions in a circle": (
        space("train.epochs: {grid: [1], when: {puzzle.count: [8]}}",
              "train.adversary.method: {choice: [fgsm], when: {puzzle.grid: [2]}}",
              "puzzle.grid: {choice: [2, 3], when: {train.adversary.method: [fgsm]}}",
              "puzzle.count: {choice: [8], when: {puzzle.grid: [3]}}"), 6,
        "(puzzle.grid → train.adversary.method → puzzle.grid)",
    ),
    "condition that no axis fulfils": (
        space("train.adversary.method: {choice: [fgsm, none]}",
              "train.adversary.steps: {int_uniform: [2, 9], when: {train.adversary.method: [pgd]}}"), 5,
        "`train.adversary.steps` is never searched … is fgsm or none",
    ),
    "condition that no setting fulfils": (
        space("train.lambda: {uniform: [0, 1], when: {puzzle.grid: [3]}}"), 4,
        "`train.lambda` is never searched … puzzle.grid is 2",
    ),
    "conditions that never meet": (
        space("puzzle.grid: {choice: [2, 3]}", "train.adversary.method: {choice: [pgd], when: {puzzle.grid: [2]}}",
              "train.lambda: {uniform: [0, 1], when: {train.adversary.method: [pgd], puzzle.grid: [3]}}"), 6,
        "`train.lambda` is never searched … or fgsm; puzzle.grid is 2 or 3",
    ),
    "condition of a reading": (
        space("puzzle.grid: {choice: [2, 3]}", "score.aggregation: {choice: [min], when: {puzzle.grid: [3]}}"), 5,
        "`score.aggregation` needs no training … remove its `when`",
    ),
    "condition on a reading": (
        space("score.error: {choice: [l2, mse]}", "train.lambda: {uniform: [0, 1], when: {score.error: [l2]}}"), 5,
        "`train.lambda` has a condition on `score.error` … remove that condition",
    ),
    # settings that do not go together
    "all of nine": (DATA + "puzzle:\n  permutations: all\n  grid: 3\n", 3, "permutations `all` needs puzzle.grid 2"),
    "drawn of four": (DATA + "puzzle: {permutations: drawn}\n", 2, "permutations `drawn` needs puzzle.grid 3"),
    "gray in one channel": (DATA + "puzzle: {hide: gray}\n", 2, "puzzle.hide `gray` … one channel; use black"),
    "gray in gray images": (
        "data: {name: cifar10, grayscale: true}\npuzzle: {hide: gray}\n", 2, "puzzle.hide `gray` … one channel",
    ),
    "more than all": (DATA + "score: {permutations: 1000}\n", 2, "score.permutations … at most 23 … got 1000"),
    "more than the six of a texture": (
        "data: {name: mvtec, normal_classes: [bottle, grid]}\nscore: {permutations: 7}\n", 2, "at most 6 … got 7",
    ),
    "axes that do not go together": (
        space("puzzle.grid: {grid: [2, 3]}", "puzzle.permutations: {grid: [two_swapped, all]}"), 5,
        "`puzzle.grid` 3 and `puzzle.permutations` all cannot be combined: … `when: {puzzle.grid: [2]}`",
    ),
    "axes that go together nowhere": (
        space("puzzle.grid: {choice: [2]}", "puzzle.permutations: {choice: [drawn], when: {puzzle.grid: [2]}}"), 5,
        "`puzzle.grid` 2 and `puzzle.permutations` drawn … out of `puzzle.permutations`",
    ),
    "axis that does not fit the study": (
        space("score.permutations: {int_uniform: [1, 30]}"), 4,
        "`score.permutations` 30 is not possible: … leave 30 out of `score.permutations`",
    ),
    "axis of variants": (
        space("variant: {choice: [CPAE-G, Rot-AE]}") + "score: {permutations: 6}\n", 4,
        "`variant` Rot-AE is not possible: score.permutations … leave Rot-AE out of `variant`",
    ),
    "variant": (DATA + "variant: PAE\ntrain: {lambda: 0.1}\n", 2, "PAE means train.lambda = 0.0 … set to 0.1"),
    "variant and axis": (
        DATA + "variant: CPAE\nsearch: {space: {train.lambda: {choice: [0.1]}}}\n", 3, "CPAE means train.lambda = 0.0",
    ),
    "variant and text": (DATA + "variant: PAE\npuzzle: {hide: black}\n", 2, "PAE means puzzle.hide = none"),
    # YAML's darker corners
    "key twice": (DATA + "train:\n  epochs: 1\n  epochs: 2\n", 4, "`train.epochs` is given twice"),
    "section twice": (DATA + DATA, 2, "`data` is given twice"),
    "alias": ("data: &d {name: digits}\ntrain: *d\n", 2, "`train` is a YAML alias; write the value out"),
    "merged alias": ("data: &d {name: digits}\ntrain: {<<: *d}\n", 2, "alias"),
    "alias of itself": ("data: &d [*d]\n", 1, "alias"),
    "Python's tag": (DATA + "name: !!python/name:os.system\n", 2, "python/name:os.system' is not allowed"),
    "a date": (DATA + "name: !!timestamp 2020-01-01\n", 2, "timestamp' is not allowed"),
    # quick
    "unknown in quick": (DATA + "quick:\n  train:\n    epoch: 2\n", 4, "`train.epoch` … mean train.epochs?"),
    "number for quick": (DATA + "quick: 3\n", 2, "`quick` must be a section of settings"),
    "quick in quick": (DATA + "quick:\n  quick: {}\n", 3, "`quick` is not a setting; allowed … storage"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_bad_study_file_is_refused_with_the_line_and_what_is_right(case: str, tmp_path: Path) -> None:
    text, line, words = CASES[case]
    sentence = failure(tmp_path, text)
    assert says(sentence, words), sentence
    assert sentence.endswith(f"(FILE, line {line})")


FILES: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "FILE must contain settings such as `data:` and `train:`, got nothing"),
    "comment": ("# nothing\n", "FILE must contain settings … got nothing"),
    "list": ("- data\n", "FILE must contain settings … got a list"),
    "text": ("hello\n", "FILE must contain settings … got text"),
    "number": ("5\n", "FILE must contain settings … got a number"),
    "number as a key": ("1: 2\n", "FILE must contain settings"),
    "list as a key": (DATA + "train: {[1, 2]: 3}\n", "FILE is not valid YAML: … line 2"),
    "list as a key of the file": (DATA + "? [1, 2]\n: 3\n", "FILE is not valid YAML: … line 2"),
    "open bracket": ("data: [\n", "FILE is not valid YAML: … line 2"),
    "tab": ("\tdata: 5\n", "FILE is not valid YAML: … line 1"),
    "two documents": (DATA + "---\n" + DATA, "FILE is not valid YAML: … another document, line 2"),
    "wrong tag": (DATA + "train: {epochs: !!int x}\n", "FILE is not valid YAML: 'x' does not fit its tag, line 2"),
    "wrong tag of a boolean": (DATA + "puzzle: {per_batch: !!bool maybe}\n", "'maybe' does not fit its tag, line 2"),
    "not UTF-8": (b"data: \xff\n", "FILE is not a YAML text file in UTF-8 (byte 6)"),
    "too large": (b"#" * (1 << 21), "FILE is larger than 1 MiB"),
    "deep list": ("[" * 100_000, "FILE is nested too deeply"),
    "deep section": ("{a: " * 50_000, "FILE is nested too deeply"),
    "deep items": ("- " * 100_000, "FILE is nested too deeply"),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("case", FILES)
def test_what_is_not_a_study_file_is_refused(case: str, tmp_path: Path) -> None:
    text, words = FILES[case]
    assert says(failure(tmp_path, text), words)


LONG = "long" * 1_250


@pytest.mark.parametrize(
    "text",
    [
        DATA + f"train: {{epochs: {LONG}}}\n",
        DATA + f"preset: {LONG}\n",
        DATA + f"name: !!{LONG} a\n",
        DATA + f"train: {{epochs: !!int {LONG}}}\n",
        DATA + f"variant: PAE\ntrain: {{lambda: {LONG}}}\n",
        f"data: {{name: digits, normal_classes: [{LONG}, {LONG}]}}\n",
        DATA + f"? {LONG}\n: 3\n",
        space(f"? {LONG}", ": {grid: [1]}"),
        space(f"train.epochs: {{grid: [{LONG}]}}"),
        LONG,
        f"train.epochs={LONG}",
        f"train.{LONG}=3",
        f"train.epochs=[{LONG}",
    ],
    ids=lambda text: text.replace(LONG, "long"),
)
def test_an_error_repeats_only_the_start_of_what_is_long(text: str, tmp_path: Path) -> None:
    assignments = [] if "data:" in text else [text]
    sentence = failure(tmp_path, DATA if assignments else text, assignments=assignments)
    assert "longlong" in sentence
    assert len(sentence) < 1_000


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("train.epochs", "--set needs name=value … got 'train.epochs'"),
        ("=3", "--set needs name=value … got '=3'"),
        ("train..epochs=3", "--set needs name=value … got 'train..epochs=3'"),
        ("train.epocs=3", "`train.epocs` … mean train.epochs? (--set train.epocs)"),
        ("train.epochs=many", "`train.epochs` must be a valid integer, got 'many' (--set train.epochs)"),
        ("train.epochs=-3", "`train.epochs` … got -3 (--set train.epochs)"),
        ("train.epochs=", "`train.epochs` must be a valid integer, got None (--set train.epochs)"),
        ("train=3", "`train` must be a section of settings, got 3 (--set train)"),
        ("train.epochs=[", "--set train.epochs=[: the value is not valid YAML"),
        ("train=&a {adversary: *a}", "`train.adversary` is a YAML alias; write the value out (--set train)"),
        ("seeds=&a [*a]", "`seeds` holds a YAML alias; write the value out (--set seeds)"),
        ("train={epochs: 1, epochs: 2}", "`train.epochs` is given twice (--set train)"),
        (f"train={'[' * 100_000}", "--set train is nested too deeply"),
        ("puzzle.permutations=drawn", "`drawn` needs puzzle.grid 3; … (--set puzzle.permutations)"),
        ("name=!!python/name:os.system", "--set name=!!python/name:os.system: the value is not valid YAML"),
    ],
    ids=lambda text: text[:30],
)
def test_a_bad_assignment_is_refused_with_its_name(assignment: str, words: str, tmp_path: Path) -> None:
    assert says(failure(tmp_path, DATA, assignments=[assignment]), words)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "cifar10.yaml").write_text(DATA)
    for path, words in (
        (tmp_path / "cifar100.yaml", r" does not exist; did you mean cifar10\.yaml\?$"),
        (tmp_path / "nowhere" / "x.yaml", " does not exist$"),
        (Path("qqqqq"), " does not exist; `puzzle-study list` shows the studies"),
        (tmp_path, " cannot be read: Is a directory$"),
    ):
        with pytest.raises(UserError, match=f"^study file {re.escape(str(path))}{words}"):
            read.load(path)


@pytest.mark.parametrize(
    "text",
    [
        '!!python/object/apply:os.mkdir ["{}"]',
        'name: !!python/object/apply:os.mkdir ["{}"]',
        'data: !!python/object/new:os.mkdir ["{}"]',
        '? !!python/object/apply:os.mkdir ["{}"]\n: 3',
        'quick: {{train: !!python/object/apply:os.mkdir ["{}"]}}',
        'name=!!python/object/apply:os.mkdir ["{}"]',
    ],
)
def test_a_python_tag_executes_nothing(text: str, tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    assignments = [text.format(marker)] if text.startswith("name=") else []
    sentence = failure(tmp_path, DATA if assignments else text.format(marker), assignments=assignments)
    assert assignments or says(sentence, "YAML tag … python/ … is not allowed: a study file is plain data")
    assert not marker.exists()


@pytest.mark.timeout(20)
@pytest.mark.parametrize("braces", ["[]", "{}"])
def test_an_alias_bomb_is_refused_at_once(braces: str, tmp_path: Path) -> None:
    """Thirty levels of nine aliases each would be 9³⁰ values."""
    lines = ["l0: &l0 [a, a, a, a, a, a, a, a, a]"]
    for level in range(1, 30):
        aliases = [f"*l{level - 1}"] * 9
        values = aliases if braces == "[]" else [f"k{number}: {alias} " for number, alias in enumerate(aliases)]
        lines.append(f"l{level}: &l{level} {braces[0]}{', '.join(values)}{braces[1]}")
    assert "YAML alias; write the value out (FILE" in failure(tmp_path, "\n".join(lines))


def test_quick_needs_a_quick_section_and_names_its_lines(tmp_path: Path) -> None:
    assert says(failure(tmp_path, DATA, quick=True), "FILE has no `quick:` section; add one or remove --quick")
    sentence = failure(tmp_path, DATA + "quick:\n  train:\n    epochs: few\n", quick=True)
    assert says(sentence, "`train.epochs` … 'few' (FILE, line 4)")


def test_the_configuration_of_a_search_names_its_axis(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(space("train.epochs: {int_uniform: [1, 5]}"))
    with pytest.raises(UserError, match=r"search axis `train\.epochs` .* not allowed: .* got -1 \(.*, line 4\)$"):
        read.load(path).configuration({"train.epochs": -1})


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        ("[10]", r"^data\.normal_classes: Digits .* has no class number 10; its numbers are 0 to 9$"),
        ("[no]", r"^data\.normal_classes: Digits .* has no class 'no'; its classes are 0, 1, 2, 3, 4, 5, 6, 7, 8, 9$"),
    ],
)
def test_a_class_that_does_not_exist_is_named_with_those_that_do(wanted: str, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(f"data: {{name: digits, normal_classes: {wanted}}}\n")
    data = read.load(path).study.data
    with pytest.raises(UserError, match=sentence):
        datasets.task_specs(data)
