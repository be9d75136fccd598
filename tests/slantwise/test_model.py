"""Models: what is saved is what is loaded, file by file; anything else is refused with the file named."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import slantwise.model
from slantwise.article import Article, Example, classifier_text, read_article
from slantwise.errors import ModelError
from slantwise.model import MANIFEST, Model, code_checksum, find_directory, load

CHECKOUT = Path(__file__).parents[2]
ARTICLES = [
    Article("one", "The council praised the Harbour Plan. Talk was of nurse.", "Nurses", source="north.example"),
    Article("two", "The North, first thing\nThe council condemned the Tram Line on day two.\nThe frost, the gale."),
    Article("three", "goal"),
]  # fmt: skip
TARGETS = [["Harbour Plan", "nurses"], [], ["Tram Line"]]


@pytest.fixture
def copy(model_directory: Path, tmp_path: Path) -> Path:
    """A copy of the saved model, to be damaged."""
    return Path(shutil.copytree(model_directory, tmp_path / "copy"))


def test_a_loaded_model_predicts_the_same(model: Model, model_directory: Path) -> None:
    loaded = load(model_directory)
    assert loaded.predict(ARTICLES, TARGETS) == model.predict(ARTICLES, TARGETS)
    assert loaded.tasks == model.tasks


def test_a_loaded_model_has_the_same_decisions_cleaners_and_provenance(model: Model, model_directory: Path) -> None:
    loaded = load(model_directory)
    for name, head in model.heads.items():
        again = loaded.heads[name]
        assert (again.decision, again.cleaner, again.provenance) == (head.decision, head.cleaner, head.provenance)


def test_saving_twice_writes_the_same_files(model: Model, model_directory: Path, tmp_path: Path) -> None:
    model.save(tmp_path / "again")
    first, again = ((path / MANIFEST).read_bytes() for path in (model_directory, tmp_path / "again"))
    assert first == again


def test_a_model_is_loaded_in_another_process_and_folder_without_scikit_learn(
    model: Model, model_directory: Path, tmp_path: Path
) -> None:
    code = f"""
import json, sys
from slantwise.article import Article
from slantwise.model import load
rows = load({str(model_directory)!r}).predict([Article("one", {ARTICLES[0].text!r})], [["Harbour Plan"]])
assert not {{"sklearn", "mlflow", "torch", "data", "training"}} & set(sys.modules), sorted(sys.modules)
print(json.dumps(rows))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(CHECKOUT)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == model.predict([Article("one", ARTICLES[0].text)], [["Harbour Plan"]])


# --- rows ---


def test_there_is_one_row_for_each_article_in_order(model: Model) -> None:
    rows = model.predict(ARTICLES, TARGETS)
    assert [row["id"] for row in rows] == ["one", "two", "three"]
    assert [list(row) for row in rows] == [["id", "topic", "framing", "stance"]] * 3


def test_a_stance_row_has_one_entry_for_each_target_in_order(model: Model) -> None:
    rows = model.predict(ARTICLES, TARGETS)
    assert [[entry["target"] for entry in row["stance"]] for row in rows] == TARGETS


def test_without_targets_stances_are_empty(model: Model) -> None:
    assert [row["stance"] for row in model.predict(ARTICLES)] == [[], [], []]


def test_a_struct_says_label_confidence_and_all_probabilities(model: Model) -> None:
    for row in model.predict(ARTICLES, TARGETS):
        for struct in (row["topic"], *row["stance"]):
            probabilities = struct["probabilities"]
            assert struct["label"] == max(probabilities, key=probabilities.get)
            assert struct["confidence"] == probabilities[struct["label"]]
            assert sum(probabilities.values()) == pytest.approx(1, abs=1e-5)
        assert list(row["topic"]["probabilities"]) == ["health", "sport", "weather"]
        held = {"economic": 0.4, "morality": 0.6}
        p = row["framing"]["probabilities"]
        assert row["framing"]["labels"] == [label for label, least in held.items() if p[label] >= least]


def test_rows_do_not_depend_on_their_neighbours(model: Model) -> None:
    together = model.predict(ARTICLES, TARGETS)
    alone = [model.predict([a], [t])[0] for a, t in zip(ARTICLES, TARGETS, strict=True)]
    for row, other in zip(together, alone, strict=True):
        assert row["topic"]["probabilities"] == pytest.approx(other["topic"]["probabilities"], abs=1e-6)


def test_a_head_sees_articles_through_its_own_cleaner(model: Model) -> None:
    article = replace(ARTICLES[1], source="north.example")
    row = model.predict([article], [["Tram Line"]])[0]
    for name, target in (("topic", None), ("stance", "Tram Line")):
        head = model.heads[name]
        seen = classifier_text(read_article(article, head.cleaner)[0])
        assert ("first thing" in seen) == (name == "stance")
        expected = head.predict([Example(seen, target)])[0].tolist()
        struct = row["topic"] if name == "topic" else row["stance"][0]
        assert list(struct["probabilities"].values()) == expected


def test_an_abstaining_head_names_no_label(model: Model) -> None:
    head = model.heads["topic"]
    unsure = Model({"topic": replace(head, decision=replace(head.decision, abstain_below=1.0))})
    struct = unsure.predict(ARTICLES)[0]["topic"]
    assert struct["label"] is None
    assert struct["confidence"] == max(struct["probabilities"].values())


def test_no_articles_give_no_rows(model: Model) -> None:
    assert model.predict([], []) == []


# --- damage ---


def files(directory: Path) -> list[str]:
    return sorted(p.relative_to(directory).as_posix() for p in directory.rglob("*") if p.is_file())


def test_every_file_but_the_manifest_is_checked(model_directory: Path) -> None:
    manifest = json.loads((model_directory / MANIFEST).read_text(encoding="utf-8"))
    assert sorted([*manifest["files"], MANIFEST]) == files(model_directory)


@pytest.mark.parametrize("damage", ["change", "truncate", "remove"])
def test_a_damaged_file_is_named(copy: Path, damage: str) -> None:
    whole = {name: (copy / name).read_bytes() for name in files(copy) if name != MANIFEST}
    assert len(whole) > 10
    for name, content in whole.items():
        path = copy / name
        if damage == "change":
            path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        elif damage == "truncate":
            path.write_bytes(content[: len(content) // 2])
        else:
            path.unlink()
        with pytest.raises(ModelError) as caught:
            load(copy)
        assert str(path) in str(caught.value)
        path.write_bytes(content)
    load(copy)


def change(manifest: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    state = json.loads(manifest.read_text(encoding="utf-8"))
    edit(state)
    manifest.write_text(json.dumps(state), encoding="utf-8")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda m: m.update(format=2), "format 2 of slantwise"),
        (lambda m: m.pop("format"), "format None of slantwise"),
        (lambda m: m.pop("heads"), "damaged"),
        (lambda m: m.update(heads=[]), "damaged"),
        (lambda m: m.pop("files"), "damaged"),
        (lambda m: m["heads"]["topic"].pop("task"), "damaged"),
        (lambda m: m["heads"]["topic"]["task"].update(labels=["a", "a"]), "damaged"),
        (lambda m: m["heads"]["topic"].update(decision=None), "damaged"),
        (lambda m: m["heads"]["topic"]["decision"].update(slopes=[1.0]), "1 slopes for 3 labels"),
        (lambda m: m["heads"]["topic"].update(classifier="forest"), "classifier 'forest'; expected one of linear"),
    ],
)
def test_a_manifest_that_is_not_one_is_named(copy: Path, edit: Callable[[dict[str, Any]], Any], message: str) -> None:
    change(copy / MANIFEST, edit)
    with pytest.raises(ModelError, match=message) as caught:
        load(copy)
    assert str(copy) in str(caught.value) or "decision of task topic" in str(caught.value)


@pytest.mark.parametrize("content", ["", "{", "[1]", "\x00"])
def test_a_manifest_that_is_no_json_object_is_named(copy: Path, content: str) -> None:
    (copy / MANIFEST).write_text(content)
    with pytest.raises(ModelError, match=MANIFEST):
        load(copy)


def test_a_folder_without_a_manifest_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"{tmp_path} is not a model directory: it holds no {MANIFEST}"):
        load(tmp_path)


def test_a_file_is_no_model(copy: Path) -> None:
    with pytest.raises(ModelError, match="not a model directory"):
        load(copy / "README.md")


def test_a_path_that_does_not_exist_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="nowhere does not exist"):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize("below", [".", "model", "artifacts/model"])
def test_a_run_directory_and_an_mlflow_model_mean_the_model_inside(
    model_directory: Path, tmp_path: Path, below: str
) -> None:
    shutil.copytree(model_directory, tmp_path / "outer" / below, dirs_exist_ok=True)
    assert find_directory(tmp_path / "outer") == tmp_path / "outer" / below


# --- saving ---


def test_an_existing_directory_is_refused_and_left_alone(model: Model, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with pytest.raises(ModelError, match="model exists"):
        model.save(tmp_path / "model")
    assert files(tmp_path) == []
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_failed_save_leaves_nothing(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(type(model.heads["stance"].classifier), "save", full)
    with pytest.raises(OSError, match="no space"):
        model.save(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_a_classifier_of_an_unknown_kind_is_not_saved(model: Model, tmp_path: Path) -> None:
    class Constant:
        def save(self, directory: Path) -> None:
            (directory / "constant.txt").touch()

    strange = Model({"topic": replace(model.heads["topic"], classifier=Constant())})  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="Constant cannot be saved; expected one of linear"):
        strange.save(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_the_model_card_names_tasks_labels_and_provenance(model_directory: Path) -> None:
    card = (model_directory / "README.md").read_text(encoding="utf-8")
    for part in ("## topic", "## framing", "## stance", "health, sport, weather", "a dozen texts"):
        assert part in card


def test_requirements_are_pinned(model_directory: Path) -> None:
    lines = (model_directory / "requirements.txt").read_text().splitlines()
    assert lines
    assert all("==" in line for line in lines)


def test_the_code_checksum_sees_a_change_in_any_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "slantwise"
    shutil.copytree(CHECKOUT / "slantwise", package, ignore=shutil.ignore_patterns("__pycache__"))
    before = code_checksum()
    monkeypatch.setattr(slantwise.model, "__file__", str(package / "model.py"))
    assert code_checksum() == before
    with (package / "mentions.py").open("a") as file:
        file.write("\n")
    assert code_checksum() != before
