"""`ISNetClassifier`: its loss is the regularizer's, its figures are those of the images, and it resumes exactly."""

import math

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch.nn.functional import cross_entropy

from zennit_isnet import ISNetRegularizer
from zennit_isnet.errors import InvalidTypeError, InvalidValueError
from zennit_isnet.formulations import Label, Selective
from zennit_isnet.training import ISNetClassifier, calibrate
from zennit_isnet.training.callbacks import Best, History, checkpoints

# the nets are not trained before
pytestmark = pytest.mark.filterwarnings("ignore::zennit_isnet.errors.RelevanceRangeWarning")


def classifier_of(net, **options):
    optimizer = {"optimizer": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9)}
    return ISNetClassifier(net(), **optimizer | options)


def state_of(classifier):
    return {name: value.clone() for name, value in classifier.state_dict().items()}


def test_the_loss_is_that_of_the_regularizer(net, data, trainer):
    classifier = classifier_of(net, formulation=Selective(), weight=0.6)
    batch = next(iter(data().train_dataloader()))
    model = net()
    regularizer = ISNetRegularizer(model, formulation=Selective())
    torch.manual_seed(1)
    logits, penalty = regularizer(*batch[:2], batch[3])
    expected = regularizer.balanced(cross_entropy(logits, batch[2]), penalty, 0.6)
    classifier.trainer = trainer(1)
    classifier.log = lambda *_, **__: None
    torch.manual_seed(1)
    torch.testing.assert_close(classifier.training_step(batch, 0), expected)


def test_without_weight_it_trains_plainly(net, data, trainer):
    trained = classifier_of(net, weight=0.0)
    trainer(2).fit(trained, data())
    assert trained.regularizer.schedule.calls == 0
    assert not torch.equal(trained.model[0].weight, net()[0].weight)


@pytest.mark.parametrize("option", [{}, {"swap": 0.5, "fade": 0.5}], ids=["defaults", "swap and fade"])
def test_a_resumed_training_ends_where_an_uninterrupted_one_ends(net, data, trainer, tmp_path, option):
    whole = classifier_of(net, **option)
    trainer(4).fit(whole, data())

    class Stop(Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.current_epoch == 2:
                raise KeyboardInterrupt

    torch.manual_seed(5)
    first = classifier_of(net, **option)
    with pytest.raises(SystemExit):
        trainer(4, callbacks=[*checkpoints(tmp_path), Stop()]).fit(first, data())
    torch.manual_seed(6)
    second = classifier_of(net, **option)
    trainer(4, callbacks=checkpoints(tmp_path)).fit(second, data(), ckpt_path=tmp_path / "last.ckpt")
    assert second.state_dict().keys() == whole.state_dict().keys()
    for name, value in whole.state_dict().items():
        assert torch.equal(second.state_dict()[name], value), name


def test_a_finished_training_can_be_extended(net, data, trainer, tmp_path):
    trainer(2, callbacks=[*checkpoints(tmp_path), History(tmp_path)]).fit(classifier_of(net), data())
    longer, history = classifier_of(net), History(tmp_path)
    trainer(3, callbacks=[*checkpoints(tmp_path), history]).fit(longer, data(), ckpt_path=tmp_path / "last.ckpt")
    assert [row["epoch"] for row in history.rows] == [0, 1, 2]
    assert longer.regularizer.schedule.calls == 3 * 4
    lines = (tmp_path / "log.csv").read_text().splitlines()
    assert len(lines) == 4
    assert {"penalty", "val_swapped_balanced_accuracy", "val_background_share"} <= set(lines[0].split(","))
    assert (tmp_path / "curves.png").exists()


def test_the_last_epoch_is_kept_however_good_it_is(net, data, trainer, tmp_path):
    class Worse(ISNetClassifier):
        def _score(self, rows):
            return 1.0 / (1 + self.current_epoch)

    trainer(3, callbacks=checkpoints(tmp_path)).fit(Worse(net(), weight=0.0), data())
    kept = {name: torch.load(tmp_path / f"{name}.ckpt", weights_only=True)["epoch"] for name in ("best", "last")}
    assert kept == {"best": 0, "last": 2}


def test_of_equal_epochs_the_later_one_is_best(net, data, trainer, tmp_path):
    keep = Best(tmp_path)
    still = classifier_of(net, weight=0.0, optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1e-30))
    trainer(3, callbacks=[keep]).fit(still, data())
    assert torch.load(keep.best_model_path, weights_only=True)["epoch"] == 2


def test_results_are_of_each_image_and_of_backgrounds_of_the_other_class(net, data, trainer):
    classifier = classifier_of(net)
    trainer(1).test(classifier, data(), verbose=False)
    found = classifier.results["far"]
    assert sorted(found["indices"].tolist()) == [0, 1, 2, 3, 4]
    assert all(len(value) == 5 for value in found.values())
    assert found["changed"].sum() >= 4, "the last batch may hold one image alone"
    assert ((found["share"] > 0) & (found["share"] < 1)).all()
    assert not torch.equal(found["logits"][found["changed"]], found["swapped"][found["changed"]])


def test_a_mask_without_background_lends_and_gets_none(net, data, trainer):
    made = data()
    made.tests["far"].full = (0, 1)
    classifier = classifier_of(net)
    trainer(1).test(classifier, made, verbose=False)
    found = classifier.results["far"]
    assert not found["changed"][[found["indices"].tolist().index(index) for index in (0, 1)]].any()


def test_where_no_background_can_be_swapped_the_choice_of_the_epoch_is_doubtful(net, data, trainer, tmp_path):
    made = data()
    made.val.without_mask = tuple(range(len(made.val)))
    with pytest.warns(UserWarning, match="no validation image could get the background of another class"):
        trainer(1, callbacks=checkpoints(tmp_path)).fit(classifier_of(net, weight=0.0), made)


def test_an_epoch_without_relevance_has_no_background_share(net, data, trainer, tmp_path):
    class Die(Callback):
        def on_validation_start(self, trainer, classifier):
            if trainer.current_epoch == 1:
                torch.nn.init.zeros_(classifier.model[-1].weight)

    history = History(tmp_path)
    trainer(2, callbacks=[Die(), history]).fit(classifier_of(net), data())
    assert [math.isfinite(row["val_background_share"]) for row in history.rows] == [True, False]


def test_a_formulation_can_explain_the_labels(net, data, trainer):
    classifier = classifier_of(net, formulation=Label())
    calibrate(classifier, data(), None)
    assert {found.count for found in classifier.regularizer.ranges.values()} == {7}
    trainer(1).fit(classifier, data())
    assert classifier.regularizer.schedule.calls == 4


def test_a_plain_training_of_a_copy_resumes_exactly(net, data, trainer, tmp_path):
    def plainly(epochs, *callbacks, **options):
        classifier = classifier_of(net, fade=0.5)
        calibrate(classifier, data(), trainer(epochs, callbacks=[*checkpoints(tmp_path), *callbacks]), **options)
        return classifier.regularizer.ranges

    class Stop(Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.current_epoch == 2:
                raise KeyboardInterrupt

    whole = plainly(4)
    with pytest.raises(SystemExit):
        plainly(4, Stop())
    assert plainly(4, ckpt_path=tmp_path / "last.ckpt") == whole


@pytest.mark.parametrize(("momentum", "lowest"), [(0.0, 0.0), (0.9, 0.85)])
def test_momentum_takes_part_in_the_cycle_where_there_is_one(momentum, lowest, net, data, trainer):
    seen = []

    class Watched(torch.optim.SGD):
        def step(self, closure=None):
            seen.append(self.param_groups[0]["momentum"])
            return super().step(closure)

    classifier = classifier_of(net, optimizer=lambda p: Watched(p, lr=0.1, momentum=momentum), weight=0.0)
    trainer(2).fit(classifier, data())
    assert min(seen) == pytest.approx(lowest, abs=0.02)


def test_the_range_is_measured_on_a_copy_that_is_trained_plainly(net, data, trainer):
    classifier = classifier_of(net)
    before = state_of(classifier)
    calibrate(classifier, data(), trainer(2))
    assert classifier.regularizer.ranges["input"].count == 7
    assert all(torch.equal(before[name], value) for name, value in classifier.state_dict().items())
    assert classifier.regularizer.schedule.calls == 0


def test_the_checkpoint_holds_the_model_and_what_the_regularizer_keeps(net, data, trainer, tmp_path):
    classifier = classifier_of(net)
    calibrate(classifier, data(), trainer(1))
    trainer(1, callbacks=checkpoints(tmp_path)).fit(classifier, data())
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert {f"model.{name}" for name in net().state_dict()} == checkpoint["state_dict"].keys()
    assert checkpoint["regularizer"]["ranges"][0]["c1"] == classifier.regularizer.ranges["input"].c1


def test_a_loss_that_is_not_finite_ends_the_training_before_a_checkpoint(net, data, trainer, tmp_path):
    diverging = classifier_of(net, weight=0.0, optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1e30))
    with pytest.raises(InvalidValueError, match=r"no longer finite in epoch 0; lower the learning rate"):
        trainer(2, callbacks=checkpoints(tmp_path)).fit(diverging, data())
    assert not (tmp_path / "last.ckpt").exists()


def test_auxiliary_heads_and_several_labels(net):
    classifier = classifier_of(net)
    logits, labels = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    alone = cross_entropy(logits, labels)
    torch.testing.assert_close(classifier.classification_loss((logits, logits, None), labels), 1.3 * alone)
    several = torch.nn.functional.one_hot(labels, 3).float()
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, several)
    torch.testing.assert_close(classifier.classification_loss(logits, several), expected)


def test_class_weights_weigh_the_classes(net):
    classifier = classifier_of(net, class_weights=[1, 3])
    logits, labels = torch.randn(4, 2), torch.tensor([0, 1, 1, 0])
    expected = cross_entropy(logits, labels, weight=torch.tensor([1.0, 3.0]))
    torch.testing.assert_close(classifier.classification_loss(logits, labels), expected)


def test_what_is_no_module_or_weight_is_refused(net):
    with pytest.raises(InvalidTypeError, match=r"model must be a torch\.nn\.Module; got str"):
        ISNetClassifier("resnet18")
    with pytest.raises(InvalidValueError, match=r"weight must lie in \[0, 1\]; got 1\.5"):
        ISNetClassifier(net(), weight=1.5)
    for wrong in ([1.0, 0.0], [1.0, -2.0], [1.0, math.nan]):
        with pytest.raises(InvalidValueError, match=r"class_weights must be positive and finite; got \[1\.0, "):
            ISNetClassifier(net(), class_weights=wrong)
