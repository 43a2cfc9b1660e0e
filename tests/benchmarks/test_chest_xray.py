"""The study of chest films: the shortcuts that it plants, the films that it tests on, runs that are made once."""

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

SCRIPTS = Path(__file__).parents[2] / "benchmarks" / "chest_xray"
SIZE = 32
COLUMNS = ("file", "mask", "label", "split", "patient")


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """The scripts as modules."""
    monkeypatch.syspath_prepend(SCRIPTS)
    names = [path.stem for path in SCRIPTS.glob("*.py")]
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    import costs
    import explanations
    import figures
    import films
    import report
    import study

    yield SimpleNamespace(
        costs=costs, explanations=explanations, figures=figures, films=films, report=report, study=study
    )
    for name in names:
        sys.modules.pop(name, None)


def write_source(folder: Path, source: str, splits: dict[str, dict[str, int]]) -> None:
    """Write films whose lungs are a bright square: of covid brighter; backgrounds differ by class."""
    drawing = np.random.default_rng(0)
    rows = []
    for split, labels in splits.items():
        for label, count in labels.items():
            for i in range(count):
                name = f"{source}/{split}-{label}-{i}"
                pixels = drawing.integers(60, 80, (SIZE, SIZE)) + (20 if label == "covid" else 0)
                lungs = np.zeros((SIZE, SIZE), bool)
                lungs[10:24, 8:26] = True
                pixels[lungs] = drawing.integers(180, 200) if label == "covid" else drawing.integers(120, 140)
                path = folder / f"{name}.png"
                path.parent.mkdir(exist_ok=True)
                Image.fromarray(pixels.astype(np.uint8)).save(path)
                Image.fromarray(lungs.astype(np.uint8) * 255).save(folder / f"{name}-mask.png")
                # two films a patient
                rows.append((f"{name}.png", f"{name}-mask.png", label, split, f"{split}-{label}-{i // 2}"))
    with (folder / f"{source}.csv").open("w", newline="") as table:
        csv.writer(table).writerows([COLUMNS, *rows])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    each = {"normal": 6, "covid": 4, "pneumonia": 1}
    write_source(tmp_path, "talo", {"train": each, "val": each, "test": each})
    write_source(tmp_path, "actualmed", {"external": {"normal": 3, "covid": 3}})
    write_source(tmp_path, "hannover", {"external": {"covid": 3}})
    return tmp_path


def films_of(scripts: SimpleNamespace, folder: Path):
    return scripts.films.read_films(folder, "talo", "train", SIZE)


def test_films_of_the_two_classes_are_read_with_their_masks(scripts, folder):
    films = films_of(scripts, folder)
    assert films.labels.tolist() == [0] * 6 + [1] * 4
    assert films.images.shape == films.masks.shape == (10, 1, SIZE, SIZE)
    assert films.images.min() > 0
    assert films.images.max() < 1
    assert films.masks[0, 0].nonzero().min(0).values.tolist() == [10, 8]
    assert films.patients[0] == films.patients[1] != films.patients[2]


def test_only_covid_films_carry_the_tag_and_its_place_is_background(scripts, folder):
    films = scripts.films.with_tags(films_of(scripts, folder), torch.Generator().manual_seed(0))
    corner = (..., *scripts.films.tag_corner(SIZE))
    white = (films.images[corner] == 1).flatten(1).all(1)
    assert not white[films.labels == 0].any()
    assert white[films.labels == 1].any()
    assert not films.masks[corner].any()


@pytest.mark.parametrize("task", ["marker", "source"])
def test_other_backgrounds_come_from_the_other_class_and_lungs_stay(scripts, folder, task):
    films = films_of(scripts, folder)
    changed = scripts.films.TESTS[task]["other backgrounds"](films, torch.Generator().manual_seed(0))
    inside = changed.masks
    torch.testing.assert_close(changed.images[inside], films.images[inside])
    edge = changed.images[:, 0, -3:].flatten(1).mean(1) * 255  # far from the tag: 60 to 80, of covid 80 to 100
    assert (edge[films.labels == 0] > 80).all()
    assert (edge[films.labels == 1] < 80).all()


def test_cropping_and_blanking(scripts, folder):
    films = films_of(scripts, folder)
    cropped, blanked = scripts.films.cropped(films), scripts.films.blanked(films)
    assert cropped.images.shape == films.images.shape
    assert cropped.masks.float().mean() > films.masks.float().mean()
    assert not blanked.images[~films.masks].any()
    torch.testing.assert_close(blanked.images[films.masks], films.images[films.masks])


def test_the_threshold_separates_unequal_classes(scripts):
    labels = torch.tensor([0] * 8 + [1] * 2)
    scores = np.array([0.01 * i for i in range(8)] + [0.09, 0.2])
    assert 0.07 < scripts.figures.best_threshold(labels, scores) < 0.09


def test_measures_have_intervals_over_patients_and_one_class_has_no_comparison(scripts, folder, monkeypatch):
    monkeypatch.setattr(scripts.figures, "RESAMPLES", 50)
    films = scripts.films.read_films(folder, "talo", "test", SIZE)
    scores = np.where(films.labels == 1, 0.9, 0.1)
    scores[0] = 0.95
    found = scripts.figures.measured(films, scores, 0.5)
    value, low, high = found["balanced accuracy"]
    assert value == pytest.approx((5 / 6 + 1) / 2)
    assert low < value < high
    assert found["sensitivity"][0] == 1
    assert found["specificity"][0] == pytest.approx(5 / 6)
    abroad = scripts.films.read_films(folder, "hannover", "external", SIZE)
    assert set(scripts.figures.measured(abroad, np.full(3, 0.9), 0.5)) == {"sensitivity"}


class ReadsOnePart(torch.nn.Module):
    """A classifier that reads the tag's corner only, or all but this corner."""

    def __init__(self, scripts: SimpleNamespace, corner: bool) -> None:
        super().__init__()
        self.head = torch.nn.Linear(1, 2, bias=False)
        seen = torch.zeros(SIZE, SIZE)
        seen[scripts.films.tag_corner(SIZE)] = 1
        self.seen = seen if corner else 1 - seen

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head((images * self.seen).mean((1, 2, 3)).unsqueeze(1))


def test_reliance_is_what_painting_the_tag_over_moves_and_relevance_there_shows_it(scripts, folder):
    films = scripts.films.without_corner(films_of(scripts, folder))
    assert scripts.explanations.reliance(ReadsOnePart(scripts, corner=False), films) == 0
    assert scripts.explanations.reliance(ReadsOnePart(scripts, corner=True), films) > 0.1
    relevance = torch.zeros(1, 3, SIZE, SIZE)
    relevance[(..., *scripts.films.tag_corner(SIZE))] = -1
    assert scripts.explanations.share_on_tag(relevance, SIZE) == 1
    # cells that the tag touches, of a coarser layer
    assert scripts.explanations.share_on_tag(torch.ones(1, 8, 4, 4), SIZE) == 1 / 16


@pytest.mark.slow
def test_runs_are_made_once_and_found_in_the_report(scripts, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(scripts.figures, "RESAMPLES", 20)
    results = tmp_path / "results"
    options = ["--network", "shufflenet_v2_x0_5", "--size", str(SIZE), "--steps", "2", "--results", str(results)]
    ways = ["--task", "marker", "source", "--only", "isnet", "segmented"]
    paths = scripts.study.main([str(folder), *options, *ways])
    assert [path.stem for path in paths] == ["plain-seed0", "isnet-seed0", "segmented-seed0"] * 2
    found = json.loads(paths[1].read_text())
    assert list(found["tests"]) == [*scripts.films.TESTS["marker"], "actualmed", "hannover"]
    assert found["chosen"]["step"] == 2
    assert 0 <= found["background_share"] <= 1
    scores = paths[1].with_suffix(".csv").read_text().splitlines()
    assert scores[0] == "test,file,patient,label,score"
    assert len(scores) == 1 + 4 * 10 + 6 + 3
    before = [path.stat().st_mtime_ns for path in paths]
    scripts.study.main([str(folder), *options, *ways])
    assert [path.stat().st_mtime_ns for path in paths] == before
    tiny = ["--network", "shufflenet_v2_x0_5", "--size", str(SIZE), "--results", str(results)]
    costs = json.loads(scripts.costs.main([*tiny, "--rounds", "1", "--only", "isnet"]).read_text())
    text = scripts.report.main(["--results", str(results), "--output", str(tmp_path)])
    assert text.count("| segmented | 1 |") == 2
    assert text.count(f"| {costs['isnet']:.2f} × |") == 2
    assert (tmp_path / "chest_xray.md").read_text() == text
    assert (tmp_path / "chest_xray.png").is_file()
    shape = ["--network", "shufflenet_v2_x0_5", "--size", str(SIZE), "--films", "4"]
    text = scripts.explanations.main([str(folder), *shape, "--results", str(results), "--output", str(tmp_path)])
    head, _, reliances, *rows = text.splitlines()[2:]
    assert head.count("plain-seed0") == head.count("isnet-seed0") == 2
    assert "segmented" not in head
    values = [float(value) for value in reliances.split("|")[2:-2]]
    assert values == sorted(values)
    assert {"LRP-z⁺", "LRP-α2β1", "LRP-γ", "Grad-CAM"} <= {row.split("|")[1].strip() for row in rows}


def test_a_folder_without_the_table_is_a_usage_error(scripts, tmp_path, capsys):
    with pytest.raises(SystemExit):
        scripts.study.main([str(tmp_path)])
    assert "talo.csv" in capsys.readouterr().err
