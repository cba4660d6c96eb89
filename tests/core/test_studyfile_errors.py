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


# What is left out between two parts of a sentence is marked by an ellipsis.
SENTENCES: dict[str, tuple[str | bytes, str]] = {
    # unknown keys
    "near": (DATA + "train:\n  epoch: 3\n", "`train.epoch` is not a setting; did you … train.epochs? (FILE, line 3)"),
    "near_section": ("trian: {epochs: 3}\ndata: {name: digits}\n",
     "`trian` is not a setting; did you mean train? (FILE, line 1)"),
    "elsewhere": (DATA + "lambda: 0.1\n", "`lambda` is not a setting; did you mean train.lambda? (FILE, line 2)"),
    "deep": (DATA + "train:\n  epochs: 3\n  adversary:\n    epsilom: 0.1\n",
     "`train.adversary.epsilom` is not a setting; did you mean train.adversary.epsilon? (FILE, line 5)"),
    "python_name": (DATA + "train: {lambda_: 3}\n", "`train.lambda_` is not a … mean train.lambda? (FILE, line 2)"),
    "leaf_of_a_section": (DATA + "epochs: 3\n", "`epochs` is not a setting; did you mean train.epochs? (FILE, line 2)"),
    "mistyped_leaf_of_a_section": (DATA + "epoch: 3\n", "`epoch` is not … mean train.epochs? (FILE, line 2)"),
    "leaf_of_a_deeper_section": (DATA + "train: {epsilon: 0.1}\n",
     "`train.epsilon` is not a setting; did you mean train.adversary.epsilon? (FILE, line 2)"),
    "leaf_of_another_section": (DATA + "model: {epochs: 3}\n",
     "`model.epochs` is not a setting; did you mean train.epochs? (FILE, line 2)"),
    "akin_beside_the_same_leaf_elsewhere": ("data: {name: digits, seed: 1}\n",
     "`data.seed` is not a setting; did you mean data.split_seed? (FILE, line 1)"),
    "section_as_axis": (DATA + "search: {space: {train: {grid: [0.1]}}}\n",
     "search axis `train` is not a setting of a configuration (FILE, line 2)"),
    "leaf_as_axis": (DATA + "search: {space: {epsilon: {grid: [0.1]}}}\n",
     "search axis `epsilon` is not a setting of a configuration; … you mean train.adversary.epsilon? (FILE, line 2)"),
    "far": (DATA + "resources: {xyz: 3}\n", "`resources.xyz` is not a setting; allowed here: cpu, gpu (FILE, line 2)"),
    # missing
    "no_name": ("data: {size: 16}\n", "`data.name` is missing; it is one of … brain_mri, folder (FILE, line 1)"),
    "no_space": (DATA + "search: {seed: 1}\n", "`search.space` is missing (FILE, line 2)"),
    # types
    "text_for_number": (DATA + "train: {epochs: many}\n", "`train.epochs` must be a valid … 'many' (FILE, line 2)"),
    "part_for_whole": (DATA + "train: {epochs: 2.5}\n", "`train.epochs` must be a valid … got 2.5 (FILE, line 2)"),
    "boolean_for_number": (DATA + "train: {epochs: true}\n",
     "`train.epochs` must be a valid integer, got True (FILE, line 2)"),
    "number_for_text": (DATA + "name: 5\n", "`name` must be a valid string, got 5 (FILE, line 2)"),
    "number_for_list": (DATA + "seeds: 3\n", "`seeds` must be a list, got 3 (FILE, line 2)"),
    "text_in_list": (DATA + "seeds: [0, a]\n", "`seeds[1]` must be a valid integer, got 'a' (FILE, line 2)"),
    "text_for_section": ("data: digits\n", "`data` must be a section of settings, got 'digits' (FILE, line 1)"),
    "number_for_section": (DATA + "train: 5\n", "`train` must be a section of settings, got 5 (FILE, line 2)"),
    "text_for_boolean": (DATA + "puzzle: {per_batch: yes}\n",
     "`puzzle.per_batch` must be a valid boolean, got 'yes' (FILE, line 2)"),
    # ranges
    "negative": (DATA + "train: {epochs: -1}\n", "`train.epochs` must be greater than … to 0, got -1 (FILE, line 2)"),
    "zero": (DATA + "resources: {cpu: 0}\n", "`resources.cpu` must be greater than 0, got 0 (FILE, line 2)"),
    "too_large": (DATA + "train: {adversary: {epsilon: 1.5}}\n",
     "`train.adversary.epsilon` must be less than or equal to 1, got 1.5 (FILE, line 2)"),
    "division_by_zero": (DATA + "train: {adversary: {epsilon: 8/0}}\n",
     "`train.adversary.epsilon` must be a valid number, got '8/0' (FILE, line 2)"),
    "in_list": (DATA + "attacks:\n  epsilons:\n  - 0.1\n  - 2\n",
     "`attacks.epsilons[1]` must be less than or equal to 1, got 2 (FILE, line 5)"),
    "too_small_an_image": ("data: {name: digits, size: 8}\n",
     "`data.size` must be greater than or equal to 16, got 8 (FILE, line 1)"),
    "seed_of_the_search": (DATA + "search: {seed: 4294967296, space: {train.lambda: {uniform: [0, 1]}}}\n",
     "`search.seed` must be less than or equal to 4294967295, got 4294967296 (FILE, line 2)"),
    "seed_of_a_training": (DATA + "seeds: [0, 18446744073709551616]\n",
     "`seeds[1]` must be less than or equal to 4294967295, got 18446744073709551616 (FILE, line 2)"),
    "seed_of_the_splits": ("data: {name: digits, split_seed: 4294967296}\n",
     "`data.split_seed` must be less than or equal to 4294967295, got 4294967296 (FILE, line 1)"),
    "seed_of_the_puzzles": (DATA + "puzzle: {seed: 4294967296}\n",
     "`puzzle.seed` must be less than or equal to 4294967295, got 4294967296 (FILE, line 2)"),
    "seed_of_the_attacks": (DATA + "attacks: {seed: 4294967296}\n",
     "`attacks.seed` must be less than or equal to 4294967295, got 4294967296 (FILE, line 2)"),
    "long_name": (DATA + f"name: {'a' * 201}\n", "`name` should have at most 200 characters, got … (FILE, line 2)"),
    "one_of_two": (DATA + "puzzle: {grid: 5}\n", "`puzzle.grid` must be 2 or 3, got 5 (FILE, line 2)"),
    "near_choice": ("data: {name: digitz}\n", "`data.name` must be one of 'digits', … mean digits? (FILE, line 1)"),
    "far_choice": ("data: {name: xyz}\n", "`data.name` must be one of 'digits', 'mnist', … got 'xyz' (FILE, line 1)"),
    "empty_list": (DATA + "seeds: []\n", "`seeds` should have at least 1 item, not 0, got a list (FILE, line 2)"),
    "no_permutation": (DATA + "score: {permutations: 0}\n",
     "`score` is not right: permutations must be `all` or at least 1 (FILE, line 2)"),
    # search
    "empty_space": (DATA + "search: {space: {}}\n", "`search.space` should have at least 1 … a section (FILE, line 2)"),
    "log_from_zero": (DATA + "search:\n  space:\n    train.lambda: {log_uniform: [0, 1]}\n",
     "`search.space.train.lambda` is not right: log_uniform wants low > 0, got 0.0 (FILE, line 4)"),
    "upside_down": (DATA + "search: {space: {train.lambda: {uniform: [1, 0.5]}}}\n",
     "`search.space.train.lambda` is not right: uniform wants low < high, got 1.0 and 0.5 (FILE, line 2)"),
    "two_ranges": (DATA + "search: {space: {train.lambda: {choice: [1], uniform: [0, 1]}}}\n",
     "`search.space.train.lambda` is not right: an axis has … int_uniform, got choice, uniform (FILE, line 2)"),
    "no_range": (DATA + "search: {space: {train.lambda: {}}}\n",
     "`search.space.train.lambda` is not right: an axis has exactly one of … int_uniform, got none (FILE, line 2)"),
    "guessed_axis": (DATA + "search: {space: {train.lambda: [0.1, 1]}}\n",
     "`search.space.train.lambda` must be a section of settings, got a list (FILE, line 2)"),
    "unknown_axis": (DATA + "search:\n  space:\n    train.lamda: {uniform: [0, 1]}\n",
     "search axis `train.lamda` is not a setting of a configuration; did you mean train.lambda? (FILE, line 4)"),
    "axis_of_the_study": (DATA + "search: {space: {max_concurrent: {choice: [1]}}}\n",
     "search axis `max_concurrent` is not a setting of a configuration (FILE, line 2)"),
    "axis_of_places": (DATA + "search: {space: {data.root: {choice: [a, b]}}}\n",
     "search axis `data.root` trains no other detector: it says where the images are; … set it once (FILE, line 2)"),
    "axis_of_tasks": (DATA + "search: {space: {data.repeats: {choice: [1, 2]}}}\n",
     "search axis `data.repeats` trains no other detector: it says how many tasks there are; … once (FILE, line 2)"),
    "axis_of_the_evaluation": (DATA + "search:\n  space:\n    evaluate.every: {choice: [1, 5]}\n",
     "search axis `evaluate.every` trains no other detector: it follows a training … set it once (FILE, line 4)"),
    "axis_of_the_attack_behind_a_training": (
        DATA + "search: {space: {evaluate.robust.epsilon: {choice: [0.1, 0.2]}}}\n",
        "search axis `evaluate.robust.epsilon` trains no other … `search.space` and set it once (FILE, line 2)",
    ),
    "axis_out_of_range": (DATA + "search:\n  space:\n    train.lambda: {uniform: [0, 1000]}\n",
     "search axis `train.lambda` leads to a value that is not … than or equal to 100, got 1000.0 (FILE, line 4)"),
    "axis_choice": (DATA + "search: {space: {score.aggregation: {choice: [min, mean]}}}\n",
     "search axis `score.aggregation` leads to a value that is not … 'min', 'avg', 'max', got 'mean' (FILE, line 2)"),
    "unknown_condition": (
        DATA + "search: {space: {train.lambda: {uniform: [0, 1], when: {train.schedul: [plateau]}}}}\n",
        "search axis `train.schedul` is not a setting of a configuration; did you mean train.schedule? (FILE, line 2)",
    ),
    "grid_of_a_range": (DATA + "search: {algorithm: grid, space: {train.lambda: {uniform: [0, 1]}}}\n",
     "search axis `train.lambda` is uniform; `algorithm: grid` wants `grid` or `choice` (FILE, line 2)"),
    "condition_on_itself": (
        DATA + "search:\n  space:\n    train.lambda: {uniform: [0.1, 0.2], when: {train.lambda: [0.15]}}\n",
        "search axis `train.lambda` waits for itself by `when` … take one of these conditions out (FILE, line 4)",
    ),
    "conditions_in_a_circle": (
        DATA + "search:\n  space:\n    train.epochs: {grid: [1], when: {puzzle.count: [8]}}\n"
        "    train.adversary.method: {choice: [fgsm], when: {puzzle.grid: [2]}}\n"
        "    puzzle.grid: {choice: [2, 3], when: {train.adversary.method: [fgsm]}}\n"
        "    puzzle.count: {choice: [8], when: {puzzle.grid: [3]}}\n",
        "search axis `puzzle.grid` waits for itself … (puzzle.grid → train.adversary.method → puzzle.grid); … line 6)",
    ),
    "condition_that_no_axis_fulfils": (
        DATA + "search:\n  space:\n    train.adversary.method: {choice: [fgsm, none]}\n"
        "    train.adversary.steps: {int_uniform: [2, 9], when: {train.adversary.method: [pgd]}}\n",
        "search axis `train.adversary.steps` is never searched: its `when` wants … is fgsm or none (FILE, line 5)",
    ),
    "condition_that_no_setting_fulfils": (
        DATA + "search: {space: {train.lambda: {uniform: [0, 1], when: {puzzle.grid: [3]}}}}\n",
        "search axis `train.lambda` is never searched: its `when` … in this study puzzle.grid is 2 (FILE, line 2)",
    ),
    "conditions_that_never_meet": (
        DATA + "search:\n  space:\n    puzzle.grid: {choice: [2, 3]}\n"
        "    train.adversary.method: {choice: [pgd], when: {puzzle.grid: [2]}}\n"
        "    train.lambda: {uniform: [0, 1], when: {train.adversary.method: [pgd], puzzle.grid: [3]}}\n",
        "search axis `train.lambda` is never searched: its `when` … or fgsm; puzzle.grid is 2 or 3 (FILE, line 6)",
    ),
    "condition_of_a_reading": (
        DATA + "search:\n  space:\n    puzzle.grid: {choice: [2, 3]}\n"
        "    score.aggregation: {choice: [min, max], when: {puzzle.grid: [3]}}\n",
        "search axis `score.aggregation` needs no training and every … its values; take its `when` out (FILE, line 5)",
    ),
    "condition_on_a_reading": (
        DATA + "search:\n  space:\n    score.error: {choice: [l2, mse]}\n"
        "    train.lambda: {uniform: [0, 1], when: {score.error: [l2]}}\n",
        "search axis `train.lambda` waits for `score.error`, each … read by; take that condition out (FILE, line 5)",
    ),
    # puzzles that cannot be
    "all_of_nine": (DATA + "puzzle:\n  permutations: all\n  grid: 3\n",
     "puzzle.permutations `all` needs puzzle.grid 2: nine pieces have 22,260; use `drawn` (FILE, line 3)"),
    "drawn_of_four": (DATA + "puzzle: {permutations: drawn}\n",
     "puzzle.permutations `drawn` needs puzzle.grid 3; four pieces have `all` 23 or `two_swapped` (FILE, line 2)"),
    "gray_in_one_channel": (DATA + "puzzle: {hide: gray}\n",
     "puzzle.hide `gray` changes nothing in images of one channel; use black, none or auto (FILE, line 2)"),
    "gray_in_gray_images": ("data: {name: cifar10, grayscale: true}\npuzzle: {hide: gray}\n",
     "puzzle.hide `gray` changes nothing in images of one channel; use black, none or auto (FILE, line 2)"),
    "more_than_all": (DATA + "score: {permutations: 1000}\n",
     "score.permutations must be `all` or at most 23, the K of this puzzle set; got 1000 (FILE, line 2)"),
    "more_than_two_swapped_of_a_texture": (
        "data: {name: mvtec, normal_classes: [bottle, grid]}\nscore: {permutations: 7}\n",
        "score.permutations must be `all` or at most 6, the K of this puzzle set; got 7 (FILE, line 2)",
    ),
    "axes_that_do_not_go_together": (
        DATA + "search:\n  algorithm: grid\n  space:\n    puzzle.grid: {grid: [2, 3]}\n"
        "    puzzle.permutations: {grid: [two_swapped, all]}\n    train.lambda: {grid: [0, 1]}\n",
        "search axes `puzzle.grid` 3 and `puzzle.permutations` all … by `when: {puzzle.grid: [2]}` (FILE, line 6)",
    ),
    "axes_that_go_together_nowhere": (
        DATA + "search:\n  space:\n    puzzle.grid: {choice: [2, 3]}\n"
        "    puzzle.permutations: {choice: [all, drawn], when: {puzzle.grid: [2]}}\n",
        "search axes `puzzle.grid` 2 and `puzzle.permutations` drawn … out of `puzzle.permutations` (FILE, line 5)",
    ),
    "axis_that_does_not_fit_the_study": (DATA + "search: {space: {score.permutations: {int_uniform: [1, 30]}}}\n",
     "search axis `score.permutations` 30 cannot be: … 30 out of `score.permutations` (FILE, line 2)"),
    "axis_of_variants": (DATA + "score: {permutations: 6}\nsearch: {space: {variant: {choice: [CPAE-G, Rot-AE]}}}\n",
     "search axis `variant` Rot-AE cannot be: score.permutations … 6; leave Rot-AE out of `variant` (FILE, line 3)"),
    # files
    "empty": ("", "FILE must hold settings such as `data:` and `train:`, got nothing"),
    "comment": ("# nothing\n", "FILE must hold settings such as `data:` and `train:`, got nothing"),
    "list": ("- data\n", "FILE must hold settings such as `data:` and `train:`, got a list"),
    "text": ("hello\n", "FILE must hold settings such as `data:` and `train:`, got text"),
    "number": ("5\n", "FILE must hold settings such as `data:` and `train:`, got a number"),
    "open_bracket": ("data: [\n", "FILE is not valid YAML: expected the node … but found '<stream end>', line 2"),
    "tab": ("\tdata: 5\n", "FILE is not valid YAML: found character '\\t' that cannot start any token, line 1"),
    "two_documents": (DATA + "---\n" + DATA, "FILE is not valid YAML: but found another document, line 2"),
    "not_utf8": (b"data: \xff\n", "FILE is not a YAML text file in UTF-8 (byte 6)"),
    "too_large_a_file": (b"#" * (1 << 21), "study file FILE is larger than 1 MiB; that is no study file"),
    # YAML's darker corners
    "twice": (DATA + "train:\n  epochs: 1\n  epochs: 2\n", "`train.epochs` is given twice (FILE, line 4)"),
    "section_twice": (DATA + DATA, "`data` is given twice (FILE, line 2)"),
    "seed_twice": (DATA + "seeds: [1, 0, 1]\n", "`seeds` is not right: it names 1 twice; leave one out (FILE, line 2)"),
    "reference_twice": (DATA + "references: [pca, pca]\n",
     "`references` is not right: it names pca twice; leave one out (FILE, line 2)"),
    "class_twice": ("data: {name: digits, normal_classes: [3, 3]}\n",
     "`data.normal_classes` is not right: it names 3 twice; leave one out (FILE, line 1)"),
    "axis_twice": (DATA + "search:\n  space:\n    train.lambda: {grid: [1]}\n    train.lambda: {grid: [2]}\n",
     "`search.space.train.lambda` is given twice (FILE, line 5)"),
    "alias": ("data: &d {name: digits}\ntrain: *d\n", "`train` is a YAML alias; write the value out (FILE, line 2)"),
    "python_tag": (DATA + "name: !!python/name:os.system\n",
     "YAML tag 'tag:yaml.org,2002:python/name:os.system' is not allowed: a study file is plain data (FILE, line 2)"),
    # quick
    "quick_unknown": (DATA + "quick:\n  train:\n    epoch: 2\n",
     "`train.epoch` is not a setting; did you mean train.epochs? (FILE, line 4)"),
    "quick_number": (DATA + "quick: 3\n", "`quick` must be a section of settings (FILE, line 2)"),
    "quick_in_quick": (DATA + "quick:\n  quick: {}\n", "`quick` is not a setting; allowed … storage (FILE, line 3)"),
    # variants
    "variant": (DATA + "variant: PAE\ntrain: {lambda: 0.1}\n",
     "variant PAE means train.lambda = 0.0, but train.lambda is set to 0.1; leave one of the two out (FILE, line 2)"),
    "variant_and_axis": (DATA + "variant: CPAE\nsearch: {space: {train.lambda: {choice: [0.1]}}}\n",
     "variant CPAE means train.lambda = 0.0, but train.lambda is set to 0.1; leave one of the two out (FILE, line 3)"),
    "variant_hide": (DATA + "variant: PAE\npuzzle: {hide: black}\n",
     "variant PAE means puzzle.hide = none, but puzzle.hide is set to black; leave one of the two out (FILE, line 2)"),
}  # fmt: skip


@pytest.mark.parametrize("case", SENTENCES)
def test_a_bad_study_file_is_refused_with_this_sentence(case: str, tmp_path: Path) -> None:
    text, sentence = SENTENCES[case]
    pattern = ".*".join(map(re.escape, sentence.split(" … ")))
    assert re.fullmatch(pattern, failure(tmp_path, text))


LONG = "long" * 1_250
LONG_CASES = {
    "value": DATA + f"train: {{epochs: {LONG}}}\n",
    "word": DATA + f"preset: {LONG}\n",
    "tag": DATA + f"name: !!{LONG} a\n",
    "value_that_does_not_fit_its_tag": DATA + f"train: {{epochs: !!int {LONG}}}\n",
    "value_against_the_variant": DATA + f"variant: PAE\ntrain: {{lambda: {LONG}}}\n",
    "item_twice": f"data: {{name: digits, normal_classes: [{LONG}, {LONG}]}}\n",
    "key": DATA + f"? {LONG}\n: 3\n",
    "axis": DATA + f"search:\n  space:\n    ? {LONG}\n    : {{grid: [1]}}\n",
    "value_of_an_axis": DATA + f"search: {{space: {{train.epochs: {{grid: [{LONG}]}}}}}}\n",
}


@pytest.mark.parametrize("case", LONG_CASES)
def test_an_error_repeats_only_the_start_of_a_long_value(case: str, tmp_path: Path) -> None:
    sentence = failure(tmp_path, LONG_CASES[case])
    assert "longlong" in sentence
    assert len(sentence) < 1_000


@pytest.mark.parametrize("assignment", [LONG, f"train.epochs={LONG}", f"train.{LONG}=3", f"train.epochs=[{LONG}"])
def test_an_error_repeats_only_the_start_of_a_long_assignment(assignment: str, tmp_path: Path) -> None:
    sentence = failure(tmp_path, DATA, assignments=[assignment])
    assert "longlong" in sentence
    assert len(sentence) < 1_000


ASSIGNED = {
    "no_value": (
        "train.epochs",
        "--set wants name=value with a dotted name, such as train.epochs=2; got 'train.epochs'",
    ),
    "no_name": ("=3", "--set wants name=value with a dotted name, such as train.epochs=2; got '=3'"),
    "odd_name": (
        "train..epochs=3",
        "--set wants name=value with a dotted name, such as train.epochs=2; got 'train..epochs=3'",
    ),
    "unknown": (
        "train.epocs=3",
        "`train.epocs` is not a setting; did you mean train.epochs? (--set train.epocs)",
    ),
    "type": ("train.epochs=many", "`train.epochs` must be a valid integer, got 'many' (--set train.epochs)"),
    "range": ("train.epochs=-3", "`train.epochs` must be greater than or equal to 0, got -3 (--set train.epochs)"),
    "empty": ("train.epochs=", "`train.epochs` must be a valid integer, got None (--set train.epochs)"),
    "section": ("train=3", "`train` must be a section of settings, got 3 (--set train)"),
    "not_yaml": ("train.epochs=[", "--set train.epochs=[: the value is not valid YAML"),
    "alias": (
        "train=&a {adversary: *a}",
        "`train.adversary` is a YAML alias; write the value out (--set train)",
    ),
    "alias_in_a_list": ("seeds=&a [*a]", "`seeds` holds a YAML alias; write the value out (--set seeds)"),
    "twice": ("train={epochs: 1, epochs: 2}", "`train.epochs` is given twice (--set train)"),
    "deep": (f"train={'[' * 100_000}", "--set train is nested too deeply to be a study file"),
    "puzzle": (
        "puzzle.permutations=drawn",
        "puzzle.permutations `drawn` needs puzzle.grid 3; four pieces have `all` 23 or `two_swapped` "
        "(--set puzzle.permutations)",
    ),
    "tag": (
        "name=!!python/name:os.system",
        "--set name=!!python/name:os.system: the value is not valid YAML",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ASSIGNED)
def test_a_bad_assignment_is_refused_with_this_sentence(case: str, tmp_path: Path) -> None:
    assignment, sentence = ASSIGNED[case]
    assert failure(tmp_path, DATA, assignments=[assignment]) == sentence


LIKE = {
    "missing_data": ("train: {epochs: 3}\n", r"^`data` is missing; .*digits.* \(FILE, line 1\)$"),
    "unknown_range": (
        DATA + "search: {space: {train.lambda: {loguniform: [0.1, 1]}}}\n",
        r"^`search\.space\.train\.lambda\.loguniform` is not .*log_uniform.* \(FILE, line 2\)$",
    ),
    "condition_out_of_range": (
        DATA + "search: {space: {train.plateau_factor: {uniform: [0.1, 0.9], when: {train.schedule: [platau]}}}}\n",
        r"train\.schedule.*'plateau'.*'platau'.*FILE",
    ),
    "empty_choice": (
        DATA + "search: {space: {train.lambda: {choice: []}}}\n",
        r"^`search\.space\.train\.lambda\.choice` .*at least 1 item.* \(FILE, line 2\)$",
    ),
    "study_name": (DATA + "name: a b\n", r"^`name` (?!must be String).*'a b' \(FILE, line 2\)$"),
    "number_as_key": ("1: 2\n", r"^(FILE|`1`) .*"),
    "nothing_as_key": (DATA + "train: {~: 3}\n", r"^`train\..*` is not a setting.* \(FILE, line 2\)$"),
    "part_as_key": (DATA + "train: {1.5: 3}\n", r"^`train.*1\.5.*` is not a setting.* \(FILE, line 2\)$"),
    "date_as_key": (DATA + "train: {!!timestamp 2020-01-01: 3}\n", r"^(`train|YAML tag).*FILE, line 2"),
    "list_as_key": (DATA + "train: {[1, 2]: 3}\n", r"^FILE is not valid YAML: .*, line 2$"),
    "list_as_key_of_the_file": (DATA + "? [1, 2]\n: 3\n", r"^FILE is not valid YAML: .*, line 2$"),
    "fraction_too_large": (
        DATA + "train: {adversary: {epsilon: 300/255}}\n",
        r"^`train\.adversary\.epsilon` must be less than or equal to 1, got .* \(FILE, line 2\)$",
    ),
    "not_a_number": (DATA + "train: {epochs: !!int x}\n", r"FILE.*line 2"),
    "not_a_part": (DATA + "train: {learning_rate: !!float abc}\n", r"FILE.*line 2"),
    "not_a_boolean": (DATA + "puzzle: {per_batch: !!bool maybe}\n", r"FILE.*line 2"),
    "a_date": (DATA + "name: !!timestamp 2020-01-01\n", r"^(`name` must|YAML tag).*FILE, line 2"),
    "not_a_date": (DATA + "name: !!timestamp yesterday\n", r"FILE.*line 2"),
    "merge_key": ("data: &d {name: digits}\ntrain: {<<: *d}\n", r"alias.*\(FILE, line 2\)$"),
    "merge_key_written_out": (DATA + "train: {<<: {epochs: 3}}\n", r"^`train\.<<` is not a setting.*\(FILE, line 2\)$"),
    "alias_of_itself": ("data: &d [*d]\n", r"FILE"),
}  # fmt: skip


@pytest.mark.parametrize("case", LIKE)
def test_a_bad_study_file_is_refused_with_a_sentence_like_this(case: str, tmp_path: Path) -> None:
    text, pattern = LIKE[case]
    assert re.search(pattern, failure(tmp_path, text))


def test_a_missing_file_is_named_with_the_nearest_one(tmp_path: Path) -> None:
    (tmp_path / "cifar10.yaml").write_text(DATA)
    path = tmp_path / "cifar100.yaml"
    with pytest.raises(
        UserError, match=rf"^study file {re.escape(str(path))} does not exist; did you mean cifar10\.yaml\?$"
    ):
        read.load(path)


def test_a_missing_file_in_a_missing_folder_is_named(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "x.yaml"
    with pytest.raises(UserError, match=rf"^study file {re.escape(str(path))} does not exist$"):
        read.load(path)


def test_a_folder_is_no_study_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"^study file {re.escape(str(tmp_path))} cannot be read: Is a directory$"):
        read.load(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        '!!python/object/apply:os.mkdir ["{}"]',
        'name: !!python/object/apply:os.mkdir ["{}"]',
        'data: !!python/object/new:os.mkdir ["{}"]',
        '? !!python/object/apply:os.mkdir ["{}"]\n: 3',
        'quick: {{train: !!python/object/apply:os.mkdir ["{}"]}}',
    ],
)
def test_a_python_tag_executes_nothing(text: str, tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    sentence = failure(tmp_path, text.format(marker))
    assert re.search(r"^YAML tag 'tag:yaml\.org,2002:python/.*' is not allowed: a study file is plain data", sentence)
    assert not marker.exists()


def test_a_python_tag_in_an_assignment_executes_nothing(tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    failure(tmp_path, DATA, assignments=[f'name=!!python/object/apply:os.mkdir ["{marker}"]'])
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
    assert re.search(r"YAML alias; write the value out \(FILE", failure(tmp_path, "\n".join(lines)))


@pytest.mark.timeout(20)
@pytest.mark.parametrize("text", ["[" * 100_000, "{a: " * 50_000, "- " * 100_000])
def test_a_file_nested_too_deeply_is_refused(text: str, tmp_path: Path) -> None:
    assert failure(tmp_path, text) == "FILE is nested too deeply to be a study file"


def test_quick_without_a_quick_section_is_refused(tmp_path: Path) -> None:
    sentence = failure(tmp_path, DATA, quick=True)
    assert sentence == "FILE has no `quick:` section; leave --quick out or write one"


def test_a_value_that_quick_sets_is_named_with_its_own_line(tmp_path: Path) -> None:
    sentence = failure(tmp_path, DATA + "quick:\n  train:\n    epochs: few\n", quick=True)
    assert sentence == "`train.epochs` must be a valid integer, got 'few' (FILE, line 4)"


def test_the_configuration_of_a_search_names_its_axis(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(DATA + "search:\n  space:\n    train.epochs: {int_uniform: [1, 5]}\n")
    file = read.load(path)
    with pytest.raises(UserError) as caught:
        file.configuration({"train.epochs": -1})
    assert str(caught.value) == (
        "search axis `train.epochs` leads to a value that is not allowed: must be greater than or equal to 0, got -1 "
        f"({path}, line 4)"
    )


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        ("[10]", r"^data\.normal_classes: Digits .* has no class number 10; its numbers are 0 to 9$"),
        ("[-1]", r"^data\.normal_classes: Digits .* has no class number -1; its numbers are 0 to 9$"),
        ("[no]", r"^data\.normal_classes: Digits .* has no class 'no'; its classes are 0, 1, 2, 3, 4, 5, 6, 7, 8, 9$"),
    ],
)
def test_a_class_that_does_not_exist_is_named_with_those_that_do(wanted: str, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(f"data: {{name: digits, normal_classes: {wanted}}}\n")
    data = read.load(path).study.data
    with pytest.raises(UserError, match=sentence):
        datasets.task_specs(data)
