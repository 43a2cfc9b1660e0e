"""The metrics in torchmetrics: batches, reset, collections, pickles, processes, and what they do without values."""

import copy
import importlib
import pickle
import sys

import matplotlib.pyplot as plt
import metrics_distributed
import pytest
import torch
from metric_data import METRICS, PAIRS, K, data
from torch import multiprocessing
from torchmetrics import MetricCollection

from zennit_isnet.errors import InvalidTypeError, InvalidValueError, MissingDependencyError
from zennit_isnet.metrics import BackgroundShare, BiasGap, PointingGame, TopKIntersection, WorstGroupAccuracy

each_metric = pytest.mark.parametrize("make", METRICS.values(), ids=METRICS)
each_pair = pytest.mark.parametrize(("measure", "make"), PAIRS.values(), ids=PAIRS)


@each_pair
def test_batches_of_any_size_give_the_mean_over_all_heatmaps(measure, make, generator):
    heatmaps, foreground = data(generator, images=9)
    metric = make()
    for part in torch.arange(9).split(4):
        metric.update(heatmaps[part], foreground[part])
    torch.testing.assert_close(metric.compute().double(), measure(heatmaps, foreground).double().mean())


@each_pair
def test_called_on_a_batch_it_returns_the_batchs_own_value(measure, make, generator):
    metric = make()
    parts = [data(generator), data(generator)]
    for heatmaps, foreground in parts:
        found = metric(heatmaps, foreground)
        torch.testing.assert_close(found.double(), measure(heatmaps, foreground).double().mean())
    together = torch.cat([measure(*part) for part in parts]).double().mean()
    torch.testing.assert_close(metric.compute().double(), together)


def test_reset_forgets(generator):
    metric = TopKIntersection(K)
    metric.update(*data(generator))
    metric.reset()
    batch = data(generator)
    metric.update(*batch)
    assert torch.equal(metric.compute(), TopKIntersection(K)(*batch))


@each_metric
def test_pickles_copies_and_half_precision(make, generator):
    heatmaps, foreground = data(generator)
    metric = make()
    metric.update(heatmaps.half(), foreground)
    for twin in (pickle.loads(pickle.dumps(metric)), copy.deepcopy(metric)):
        twin.update(heatmaps.bfloat16(), foreground.bool())
        assert twin.count == 2 * metric.count
    torch.testing.assert_close(metric.compute(), make()(heatmaps.half().float(), foreground))


def test_heatmaps_with_a_graph_leave_none_in_the_metric(generator):
    heatmaps, foreground = data(generator)
    metric = TopKIntersection(K)
    metric.update(heatmaps.requires_grad_(), foreground)
    assert not metric.total.requires_grad


def test_a_collection_keeps_metrics_apart_that_agree_on_the_first_batch(generator):
    heatmaps, foreground = data(generator, images=6)
    several = {f"top {k}": TopKIntersection(k) for k in (1, 3, 9)}
    several |= {f"within {t}": PointingGame(tolerance=t) for t in (0, 2)} | {"signed": PointingGame("l1_norm")}
    collection, alone = MetricCollection(several), copy.deepcopy(several)
    everywhere = torch.ones_like(foreground)
    for batch in ((heatmaps, everywhere), (heatmaps, foreground)):
        collection.update(*batch)
        for metric in alone.values():
            metric.update(*batch)
    expected = {name: metric.compute() for name, metric in alone.items()}
    assert len({value.item() for value in expected.values()}) > 3
    assert collection.compute() == expected


def test_a_collection_of_group_metrics_gets_each_its_own_arguments():
    classes, groups = torch.tensor([0, 1, 1, 0]), torch.tensor([0, 0, 1, 1])
    collection = MetricCollection([WorstGroupAccuracy(2), BiasGap()])
    collection.update(predictions=classes, labels=torch.zeros(4).long(), groups=groups, confounding=classes == 1)
    assert {name: value.item() for name, value in collection.compute().items()} == {
        "WorstGroupAccuracy": 0.5,
        "BiasGap": 1.0,
    }


@each_pair
def test_undefined_heatmaps_are_skipped_and_counted_on_request(measure, make, generator):
    heatmaps, foreground = data(generator)
    foreground[1], heatmaps[2, 1] = 0, 0
    metric = make(undefined="skip")
    metric.update(heatmaps, foreground)
    scores = measure(heatmaps, foreground, undefined="skip")
    assert (metric.count.item(), metric.skipped.item()) == (5, 3)
    torch.testing.assert_close(metric.compute().double(), scores.double().nanmean())


def test_undefined_heatmaps_are_errors_that_leave_the_metric_as_it_was(generator):
    heatmaps, foreground = data(generator)
    metric = TopKIntersection(K)
    metric.update(heatmaps, foreground)
    with pytest.raises(InvalidValueError, match=r"no foreground .*images 0, 1, 2, 3 of 4"):
        metric.update(heatmaps, torch.zeros_like(foreground))
    with pytest.raises(InvalidValueError, match=r"no foreground .*images 0, 1, 2, 3 of 4"):
        metric(heatmaps, torch.zeros_like(foreground))
    assert torch.equal(metric.compute(), TopKIntersection(K)(heatmaps, foreground))


def test_states_of_parts_are_merged(generator):
    heatmaps, foreground = data(generator)
    first, second, third = TopKIntersection(K), TopKIntersection(K), TopKIntersection(K)
    for metric, part in zip((first, second, third), torch.arange(4).split([2, 1, 1]), strict=True):
        metric.update(heatmaps[part], foreground[part])
    first.merge_state(second)
    first.merge_state(third.metric_state)
    torch.testing.assert_close(first.compute(), TopKIntersection(K)(heatmaps, foreground))


def test_states_of_other_settings_are_not_merged(generator):
    metric, other = PointingGame(), PointingGame(tolerance=15)
    for each in (metric, other):
        each.update(*data(generator))
    for state in (other, other.metric_state, BackgroundShare()):
        with pytest.raises(InvalidValueError, match=r"settings \('PointingGame', 'sum', 0, 'error'\); got \("):
            metric.merge_state(state)
    with pytest.raises(InvalidValueError, match=r"incoming_state.*none"):
        metric.merge_state({})
    with pytest.raises(InvalidTypeError, match=r"incoming_state .*list"):
        metric.merge_state([])


def test_states_of_other_settings_are_not_loaded(generator):
    metric, same, other = PointingGame(), PointingGame(), PointingGame(tolerance=15)
    for each in (metric, same, other):
        each.persistent(True)
        each.update(*data(generator))
    same.load_state_dict(metric.state_dict())
    assert same.compute() == metric.compute()
    before = other.compute()
    with pytest.raises(InvalidValueError, match=r"state_dict must come from .*, 15, .*; got .*, 0, "):
        other.load_state_dict(metric.state_dict())
    assert other.compute() == before


def test_states_in_float64(generator):
    heatmaps, foreground = data(generator)
    metric = TopKIntersection(K).set_dtype(torch.float64)
    metric.update(heatmaps, foreground)
    assert metric.compute().dtype == torch.float64
    torch.testing.assert_close(metric.compute().float(), TopKIntersection(K)(heatmaps, foreground))


def test_values_are_drawn(generator):
    metric = BackgroundShare()
    values = [metric(*data(generator)) for _ in range(3)]
    figure, axes = metric.plot(values)
    assert torch.tensor(axes.lines[0].get_ydata()).tolist() == torch.stack(values).tolist()
    plt.close(figure)


def test_nothing_has_no_mean(generator):
    heatmaps, foreground = data(generator)
    skipping = TopKIntersection(K, undefined="skip")
    assert skipping(heatmaps, torch.zeros_like(foreground)).isnan()
    metric = TopKIntersection(K)
    with (
        pytest.warns(UserWarning, match="was called before"),
        pytest.raises(InvalidValueError, match="no value before update"),
    ):
        metric.compute()


@each_metric
def test_which_way_is_better_is_told(make, generator):
    heatmaps, foreground = data(generator)
    metric = make()
    good = metric(heatmaps.abs() * foreground.unsqueeze(2), foreground)
    bad = metric(heatmaps.abs() * (1 - foreground).unsqueeze(2), foreground)
    assert (good > bad) == metric.higher_is_better
    assert metric.plot_lower_bound <= min(good, bad) <= max(good, bad) <= metric.plot_upper_bound


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: BackgroundShare("sum"), InvalidValueError, "pooling .*'sum_pos'"),
        (lambda: PointingGame("mean"), InvalidValueError, "pooling .*'sum'"),
        (lambda: PointingGame(tolerance=-1), InvalidValueError, "tolerance .*0.*-1"),
        (lambda: TopKIntersection(0), InvalidValueError, "k .*1.*0"),
        (lambda: TopKIntersection("5"), InvalidTypeError, "k .*int.*'5'"),
    ],
)
def test_options_are_checked_when_a_metric_is_built(build, error, message):
    with pytest.raises(error, match=message):
        build()


@each_metric
def test_undefined_is_one_of_two_words(make):
    with pytest.raises(InvalidValueError, match=r"undefined .*'error', 'skip'.*'zero'"):
        make(undefined="zero")


def test_without_torchmetrics_the_error_names_the_extra(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("zennit_isnet.metrics")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "zennit-isnet\[metrics\]"'):
        importlib.import_module("zennit_isnet.metrics")


def check_processes(folder, world):
    expected = metrics_distributed.values(slice(None))
    assert expected["skipped"] == 2
    for rank in range(world):
        found = torch.load(folder / f"values{rank}.pt", weights_only=True)
        torch.testing.assert_close(found, expected)


def test_one_process(tmp_path):
    metrics_distributed.distributed_values(rank=0, world=1, folder=str(tmp_path))
    check_processes(tmp_path, world=1)


@pytest.mark.slow
def test_two_processes_give_the_values_of_all_images(tmp_path):
    multiprocessing.spawn(metrics_distributed.distributed_values, args=(2, str(tmp_path)), nprocs=2)
    check_processes(tmp_path, world=2)
    expected, shard = metrics_distributed.values(slice(None)), metrics_distributed.values(slice(0, None, 2))
    assert all(not torch.equal(shard[name], expected[name]) for name in ("background_share", "gap"))
