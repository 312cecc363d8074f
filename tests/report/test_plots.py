"""Plots of a policy and of its decisions: the numbers that they show."""

import matplotlib
import numpy as np
import pytest
from policies import outputs

from misgiving import Deferral
from misgiving.errors import DataError

matplotlib.use("Agg")


@pytest.fixture(scope="module")
def fitted():
    return Deferral(max_error=0.15).fit(
        outputs(300, 1, signal=1.5), outputs(900, 2, signal=1.5), classes=["cat", "dog", "owl"]
    )


def test_a_policy_is_plotted_at_what_it_accepts_below_the_bounds(fitted):
    axes = fitted.plot()
    error, bound, target, policy, *_ = (line.get_ydata() for line in axes.lines)
    certificate = fitted.certificate_
    assert (error <= bound).all()
    assert error[-1] == pytest.approx(
        100 * np.mean(np.array(certificate.errors)[np.array(certificate.kept)])
    )
    assert [*target] == [15, 15]
    assert policy == pytest.approx(100 * certificate.wrong / certificate.accepted)
    ((_, (_, top)),) = axes.collections[0].get_segments()  # from the policy to what it certifies
    assert top == pytest.approx(15)
    share = axes.lines[3].get_xdata()
    assert share == pytest.approx(100 * certificate.accepted / certificate.cases)


def test_decisions_are_plotted_by_score_or_by_what_was_right_or_as_images(fitted):
    logits, labels = outputs(400, 5, signal=1.5)
    decisions = fitted.decide(logits)
    accepted = int((decisions.decisions == "accept").sum())
    axes = decisions.plot()
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names == [f"accepted ({accepted})", f"deferred ({400 - accepted})"]
    assert axes.lines[0].get_xdata()[0] == pytest.approx(decisions.threshold)
    assert sum(bar.get_height() for bars in axes.containers for bar in bars) == 400
    marks = np.asarray(decisions.plot(labels).collections[0].get_offsets())
    by_probability = np.argsort(decisions.probabilities.max(axis=1))
    right = (decisions.predicted == labels)[by_probability].reshape(10, 40)
    assert marks[:, 1] == pytest.approx(100 * right.mean(axis=1))
    images = np.arange(400)[:, None, None] * np.ones((1, 2, 2))
    panels = decisions.plot(images=images)
    shown = [int(axes.images[0].get_array()[0, 0]) for axes in panels.flat]
    scores, is_accepted = decisions.acceptance_score, decisions.decisions == "accept"
    best, worst = np.argsort(-scores), np.argsort(scores)
    assert shown[:5] == best[is_accepted[best]][:5].tolist()
    assert shown[5:] == worst[~is_accepted[worst]][:5].tolist()
    assert panels[0, 0].get_title() == f"accepted: {decisions[shown[0]].answer}"


def test_true_classes_are_positions_or_names_one_for_each_decision(fitted):
    logits, labels = outputs(400, 5, signal=1.5)
    decisions = fitted.decide(logits)
    names = np.array(fitted.classes_)[labels]
    np.testing.assert_array_equal(decisions.wrong(names), decisions.wrong(labels))
    with pytest.raises(DataError, match="unknown class 'fox'"):
        decisions.wrong(["fox", *names[1:]])
    with pytest.raises(DataError, match=r"shape \(5,\), and there are 400 decisions"):
        decisions.plot(labels[:5])
    assert repr(decisions).startswith("Decisions on 400: accept ")
