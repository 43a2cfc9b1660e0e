"""C₁ and C₂: formulas, one-pass moments, measurement, state, and the warning of those who did not measure."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from regularizer_models import DenseNetLike, batch, on_images, tiny_net, with_mixed_modes
from torch.utils.data import DataLoader, TensorDataset

from zennit_isnet import HeatmapLoss, ISNetRegularizer, LRPAttribution, LRPFlex, Original, Selective, Stochastic, Target
from zennit_isnet.calibration import RelevanceRange, measured_ranges
from zennit_isnet.errors import CalibrationError, InvalidValueError, RelevanceRangeWarning, VanishedRelevanceWarning
from zennit_isnet.formulations import Label
from zennit_isnet.lrp import INPUT, Place


class TestRange:
    @pytest.mark.parametrize(
        ("mean", "std", "c1", "c2"),
        [
            (10.0, 2.0, 4.0, 16.0),  # m − 3s and m + 3s
            (10.0, 4.0, 2.0, 22.0),  # m/5 where 3s is more than 4m/5
            (10.0, 40.0, 2.0, 50.0),  # and 25·C₁ where m + 3s is more
            (1e-6, 1e-7, 7e-7, 1.3e-6),
        ],
    )
    def test_formulas(self, mean, std, c1, c2):
        measured = RelevanceRange.from_statistics(mean, std, 7)
        assert measured.c1 == pytest.approx(c1, rel=1e-12)
        assert measured.c2 == pytest.approx(c2, rel=1e-12)
        assert (measured.mean, measured.std, measured.count) == (mean, std, 7)

    @pytest.mark.parametrize("count", [0, 1])
    def test_fewer_than_two_images_have_no_deviation(self, count):
        with pytest.raises(CalibrationError, match=f"at least 2 images; got {count}"):
            RelevanceRange.from_statistics(1.0, math.nan, count)

    @pytest.mark.parametrize(("mean", "std"), [(math.nan, 1.0), (1.0, math.nan), (math.inf, 1.0), (1.0, math.inf)])
    def test_statistics_must_be_finite(self, mean, std):
        with pytest.raises(CalibrationError, match=f"must be finite; got mean {mean} and standard deviation {std}"):
            RelevanceRange.from_statistics(mean, std, 5)

    @pytest.mark.parametrize(("mean", "std"), [(10.0, 0.0), (0.0, 0.0), (0.0, 1.0)])
    def test_an_empty_range_is_refused_with_its_numbers(self, mean, std):
        with pytest.raises(CalibrationError, match=r"0 < c1 < c2 < inf; got c1 = .*mean .*deviation .*5 images"):
            RelevanceRange.from_statistics(mean, std, 5)

    @pytest.mark.parametrize(
        ("c1", "c2"),
        [(1.0, 1.0), (2.0, 1.0), (0.0, 1.0), (-1.0, 1.0), (1.0, math.inf), (math.nan, 1.0), (1.0, math.nan)],
    )
    def test_a_range_that_is_set_must_not_be_empty_either(self, c1, c2):
        with pytest.raises(CalibrationError, match=f"got c1 = {c1:g}, c2 = {c2:g}"):
            RelevanceRange(c1, c2)


class TestMeasuredRanges:
    def test_batches_of_any_size_and_precision_count_as_all_values_at_once(self):
        values = torch.tensor([900.0, 1000.0, 1100.0, 1016.0, 984.0], dtype=torch.float16)
        batches = [{INPUT: part} for part in values.split(2)]
        measured = measured_ranges(batches, torch.nn.Identity())["input"]
        assert (measured.mean, measured.count) == (1000.0, 5)
        assert measured.std == pytest.approx(values.double().numpy().std(ddof=1), rel=1e-12)

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_values_that_are_not_finite_are_refused(self, value):
        with pytest.raises(CalibrationError, match="must be finite"):
            measured_ranges([{INPUT: torch.tensor([1.0, value])}], torch.nn.Identity())


def totals(model, images, formulation, composite=None) -> np.ndarray:
    """Total |relevance| of each image: sum over the image, mean over its heatmaps."""
    _, relevance = LRPAttribution(composite)(model, images, formulation)
    return relevance["input"].detach().double().abs().sum((2, 3, 4)).mean(1).numpy()


class TestCalibrate:
    @pytest.mark.parametrize("formulation", [Selective(), Original(), Target(1)], ids=repr)
    @pytest.mark.parametrize("box", [None, (0.0, 1.0)], ids=["no z^B", "z^B"])
    def test_measures_the_total_relevance_in_eval_mode(self, formulation, box):
        model, (images, _) = DenseNetLike(), batch(10, size=8)
        for norm in (*model.norms, model.last_norm):
            torch.nn.init.uniform_(norm.running_var, 0.5, 2.0)
        composite = LRPFlex(box=box)
        expected = totals(model.eval(), images, formulation, composite)

        with_mixed_modes(model)
        regularizer = on_images(model, composite=composite, formulation=formulation)
        found = regularizer.calibrate(images.split(4), progress=False)

        mean, std = expected.mean(), expected.std(ddof=1)
        assert list(found) == [INPUT]
        assert found["input"].count == 10
        assert found["input"].mean == pytest.approx(mean, rel=1e-5)
        assert found["input"].std == pytest.approx(std, rel=1e-4)
        assert found["input"].c1 == pytest.approx(max(mean / 5, mean - 3 * std), rel=1e-4)
        assert found["input"].c2 == pytest.approx(min(25 * found["input"].c1, mean + 3 * std), rel=1e-4)

    @pytest.mark.parametrize(
        "loader",
        [
            lambda images: images.split(3),
            lambda images: [(part, part[:, :1], 0) for part in images.split(3)],
            lambda images: [[part, None] for part in images.split(3)],
            lambda images: (part for part in images.split(3)),
            lambda images: DataLoader(TensorDataset(images, torch.arange(len(images))), batch_size=3),
        ],
        ids=["tensors", "tuples", "lists", "generator", "DataLoader"],
    )
    def test_takes_what_data_loaders_yield(self, loader):
        model, (images, _) = tiny_net(), batch(8, size=8)
        regularizer = on_images(model)
        expected = totals(model.eval(), images, regularizer.formulation)
        measured = regularizer.calibrate(loader(images), progress=False)["input"]
        assert measured.count == 8
        assert measured.mean == pytest.approx(expected.mean(), rel=1e-5)

    def test_labels_are_the_third_entry_if_the_formulation_explains_them(self):
        model, (images, masks) = tiny_net(), batch(8, size=8)
        labels = torch.tensor([0, 1] * 4)
        expected = totals(model.eval(), images, Target(labels))
        measured = on_images(model, formulation=Label()).calibrate([(images, masks, labels)], progress=False)["input"]
        assert measured.mean == pytest.approx(expected.mean(), rel=1e-5)

    @pytest.mark.parametrize("progress", [True, False])
    def test_shows_a_progress_bar_unless_told_not_to(self, progress, capsys):
        on_images(tiny_net()).calibrate([batch(4, size=8)], progress=progress)
        out, err = capsys.readouterr()
        assert out == ""
        assert ("calibrating" in err) is progress

    def test_uses_the_range_from_now_on(self):
        model, (images, masks) = tiny_net().eval(), batch(size=8)
        regularizer = on_images(model)
        measured = regularizer.calibrate([images], progress=False)["input"]
        expected = HeatmapLoss()(regularizer.heatmap(images), masks, measured.c1, measured.c2).mean()
        torch.testing.assert_close(regularizer(images, masks)[1].detach(), expected)

    def test_measures_every_layer_of_an_attribution(self):
        def attribution(model, images, formulation, *, create_graph=True):
            relevance = images.flatten(1).sum(1).view(-1, 1, 1, 1, 1).expand(-1, 2, 1, 1, 1)
            return model(images), {"deep": relevance * torch.tensor([1.0, -3.0]).view(2, 1, 1, 1), "input": relevance}

        images = batch(6, size=8)[0]
        found = on_images(tiny_net(), attribution=attribution).calibrate([images], progress=False)
        assert list(found) == [Place("deep"), INPUT]
        sums = images.double().flatten(1).sum(1).numpy()
        assert found["input"].mean == pytest.approx(sums.mean(), rel=1e-5)
        assert found["deep"].mean == pytest.approx(2 * sums.mean(), rel=1e-5)
        assert found["deep"].std == pytest.approx(2 * sums.std(ddof=1), rel=1e-4)

    @pytest.mark.parametrize(
        ("loader", "message"),
        [
            ([], "at least 2 images; got 0"),
            ([batch(1, size=8)[0]], "at least 2 images; got 1"),
            ([batch(1, size=8)[0]] * 3, r"got c1 = .*standard deviation 0, 3 images"),
            ([torch.zeros(4, 3, 8, 8)], r"all relevance at input is zero: .*each image has a single colour"),
        ],
        ids=["empty loader", "one image", "identical images", "no relevance"],
    )
    def test_what_gives_no_range_is_an_error_and_keeps_the_former_one(self, loader, message):
        regularizer = on_images(tiny_net())
        before = regularizer.calibrate([batch(4, size=8)[0]], progress=False)
        with pytest.raises(CalibrationError, match=message):
            regularizer.calibrate(loader, progress=False)
        assert regularizer.ranges == before

    def test_the_returned_ranges_are_the_users_own(self):
        regularizer = on_images(tiny_net())
        regularizer.calibrate([batch(4, size=8)[0]], progress=False).clear()
        assert list(regularizer.ranges) == [INPUT]


class TestState:
    def test_survives_a_file_that_holds_nothing_but_numbers_and_tensors(self, tmp_path):
        images, masks = batch(size=8)
        model = tiny_net().eval()
        first = on_images(model, formulation=Stochastic(torch.Generator().manual_seed(3)))
        first.calibrate([images], progress=False)
        torch.save(first.state_dict(), tmp_path / "state.pt")

        second = on_images(model, formulation=Stochastic(torch.Generator().manual_seed(4)))
        second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
        assert second.ranges == first.ranges
        for _ in range(5):
            assert torch.equal(second(images, masks)[1], first(images, masks)[1])

    def test_of_a_fresh_regularizer_is_empty_and_resets_another(self):
        regularizer = on_images(tiny_net())
        fresh = regularizer.state_dict()
        regularizer.calibrate([batch(4, size=8)[0]], progress=False)
        regularizer.load_state_dict(fresh)
        assert regularizer.ranges == {}

    def test_is_a_copy(self):
        regularizer = on_images(tiny_net())
        regularizer.calibrate([batch(4, size=8)[0]], progress=False)
        state = regularizer.state_dict()
        state["ranges"][0]["c1"] = -1.0
        assert regularizer.ranges["input"].c1 > 0

    def test_of_a_formulation_without_state_is_fine(self):
        regularizer = on_images(tiny_net(), formulation=lambda logits: torch.ones_like(logits).unsqueeze(1))
        regularizer.calibrate([batch(4, size=8)[0]], progress=False)
        other = on_images(tiny_net(), formulation=regularizer.formulation)
        other.load_state_dict(regularizer.state_dict())
        assert other.ranges == regularizer.ranges


def far_from_the_default_range(factor: float) -> ISNetRegularizer:
    model = tiny_net().eval()
    images = batch(size=8)[0]
    with torch.no_grad():
        model[-1].weight.mul_(factor / totals(model, images, Target(0)).mean())
    return on_images(model, formulation=Target(0))


class TestWarning:
    @pytest.mark.parametrize("total", [1e-3, 1e4])
    def test_comes_once_at_the_first_call_and_says_what_to_do(self, total):
        regularizer, (images, masks) = far_from_the_default_range(total), batch(size=8)
        with pytest.warns(RelevanceRangeWarning, match=r"input is .*range \(1, 25\).*calibrate\(loader\)") as caught:
            regularizer(images, masks)
        assert [warning.filename for warning in caught] == [__file__]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            _, penalty = regularizer(images, masks)
        assert penalty > 0.5

    @pytest.mark.parametrize("total", [0.5, 5.0, 100.0])
    def test_does_not_come_near_the_range(self, total):
        regularizer, (images, masks) = far_from_the_default_range(total), batch(size=8)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            _, penalty = regularizer(images, masks)
        assert penalty.isfinite()

    def test_does_not_come_after_calibration(self):
        regularizer, (images, masks) = far_from_the_default_range(1e4), batch(size=8)
        regularizer.calibrate([images], progress=False)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            _, penalty = regularizer(images, masks)
        assert penalty.isfinite()

    def test_does_not_come_with_a_loaded_state(self):
        regularizer, (images, masks) = far_from_the_default_range(1e4), batch(size=8)
        state = regularizer.state_dict()
        state["ranges"] = [{"layer": None, "c1": 1e3, "c2": 2e4}]
        regularizer.load_state_dict(state)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            _, penalty = regularizer(images, masks)
        assert penalty < 5


def certain_classifier() -> tuple[torch.nn.Module, torch.Tensor]:
    """A linear classifier and images of more and more contrast: the logits lie 5 to 50 apart."""
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 4, bias=False))
    images = torch.rand(1, 3, 8, 8) * torch.linspace(0.1, 1, 40).view(-1, 1, 1, 1)
    with torch.no_grad():
        logits = model(images[-1:])
        model[-1].weight *= 50 / (logits.max() - logits.min())
    return model, images


class TestScatterWarning:
    def test_comes_where_the_seeds_of_a_certain_classifier_vanish(self):
        model, images = certain_classifier()
        with pytest.warns(RelevanceRangeWarning, match=r"input varies .*delta=0") as caught:
            ranges = on_images(model, formulation=Selective(1e-2)).calibrate([images], progress=False)
        assert ranges["input"].std > ranges["input"].mean
        assert caught[0].filename == __file__

    def test_does_not_come_for_a_few_images_of_which_one_may_be_an_outlier(self):
        model, images = certain_classifier()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            on_images(model, formulation=Selective(1e-2)).calibrate([images[::2]], progress=False)

    @pytest.mark.parametrize("formulation", [Selective(), Stochastic()], ids=repr)
    def test_does_not_come_where_the_seeds_do_not_vanish(self, formulation):
        model, images = certain_classifier()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            on_images(model, formulation=formulation).calibrate([images], progress=False)


class TestWithoutTraining:
    def test_a_head_of_zeros_is_named(self):
        model = tiny_net()
        torch.nn.init.zeros_(model[-1].weight)
        images = batch(4, size=8)[0]
        with pytest.raises(
            CalibrationError, match=r"input is zero: .*8\.weight is zero throughout.*train .* without the penalty"
        ):
            on_images(model).calibrate([images], progress=False)
        with pytest.raises(InvalidValueError, match=r"input is zero: .*8\.weight is zero throughout"):
            on_images(model)(images, torch.ones(4, 1, 8, 8))

    @pytest.mark.parametrize("wrap", [lambda logits: logits, lambda logits: {"logits": logits}], ids=["tensor", "dict"])
    def test_logits_of_a_guess_that_name_one_class_draw_a_warning(self, wrap):
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 4))
        with torch.no_grad():
            model[-1].weight.mul_(1e-3)
            model[-1].bias.copy_(torch.tensor([0.1, 0.0, 0.0, 0.0]))
        model.register_forward_hook(lambda module, args, output: wrap(output))
        images = torch.rand(40, 3, 8, 8)
        with pytest.warns(
            RelevanceRangeWarning, match=r"looks untrained: it predicts class 0 for all 40 images"
        ) as caught:
            on_images(model).calibrate([images], progress=False)
        assert caught[0].filename == __file__


class TestVanishedRelevance:
    def regularizer(self, c1):
        regularizer = on_images(tiny_net())
        regularizer.ranges = {"input": RelevanceRange(c1, 25 * c1)}
        return regularizer

    def test_ten_calls_far_below_the_range_draw_one_warning(self):
        images, masks = batch(4, size=8)
        regularizer = self.regularizer(1e6)
        for _ in range(9):
            regularizer(images, masks)
        with pytest.warns(VanishedRelevanceWarning, match=r"at input has been below 0.01 of its range") as caught:
            regularizer(images, masks)
        for _ in range(12):
            regularizer(images, masks)
        assert caught[0].filename == __file__

    def test_calls_without_a_graph_and_within_the_range_draw_none(self):
        images, masks = batch(4, size=8)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            low, right = self.regularizer(1e6), self.regularizer(1e-3)
            for _ in range(12):
                right(images, masks)
                with torch.no_grad():
                    low(images, masks)
