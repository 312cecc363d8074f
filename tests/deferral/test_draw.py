"""Cases that are drawn above a limit, and calibrations that are planned one after another."""

from dataclasses import replace

import numpy as np
import pytest
from policies import CLASSES, outputs
from scipy import stats

from misgiving import Deferral, Predictions, draw
from misgiving.deferral.calibrations import Calibrations
from misgiving.deferral.draw import DrawnCases, draw_to_tune, label
from misgiving.deferral.drift import DriftMonitor
from misgiving.deferral.sentences import certificate_sentences
from misgiving.deferral.targets import Targets
from misgiving.deferral.thresholds import ScoredCases, count_ranks, loosest_certified
from misgiving.errors import DataError, UsageError


def images(count, seed, signal=1.5, **columns):
    logits, labels = outputs(count, seed, signal)
    ids = [f"{seed}-{row}" for row in range(count)]
    return Predictions.of(
        {"logits": logits, "label": labels, "classes": CLASSES, "id": ids} | columns
    )


pytestmark = pytest.mark.filterwarnings("ignore:Accepted. nothing")
TUNING, POOL, NEW = images(200, 0), images(3000, 1), images(2000, 2)
TRUTH = {name: CLASSES[label] for name, label in zip(POOL.ids, POOL.labels, strict=True)}
ERROR, TARGETS = 0.12, Targets(max_error=0.1, max_ood_false_alarms=None)


def drawn_for(cases=200, pool=POOL, tuning=TUNING, looks=(), **parameters):
    deferral = Deferral(**{"max_error": ERROR, "ood_detector": "max_logit"} | parameters)
    return deferral, draw(pool, cases, deferral=deferral, tuning=tuning, looks=looks)


def labels_of(cases):
    return [TRUTH[name] for name in cases.ids]


@pytest.fixture(scope="module")
def drawn():
    return drawn_for()[1]


@pytest.fixture
def fitted(drawn):
    return Deferral(max_error=ERROR, ood_detector="max_logit").fit(
        TUNING, drawn.with_labels(labels_of(drawn))
    )


def test_the_part_is_the_best_share_of_the_pool_above_both_limits(drawn):
    certificate, policy = drawn.deferral.certificate_, drawn.deferral.policy_
    scored = policy.score(POOL.outputs)
    unfamiliar = np.sort(scored.ood_score)[certificate.ood_rank - 1]
    assert certificate.ood_threshold == unfamiliar
    above = scored.acceptable & (scored.ood_score > unfamiliar)
    part = above & (scored.acceptance_score > certificate.pool.limit)
    assert certificate.pool.part == part.sum()
    at_limit = above & (scored.acceptance_score == certificate.pool.limit)
    assert at_limit.sum() == 1  # which is excluded: the limit is a rank
    assert 0.1 < part.mean() < 0.95
    assert {*drawn.ids} <= {np.array(POOL.ids)[row] for row in np.flatnonzero(part)}
    assert len({*drawn.ids}) == 200
    whole = drawn_for(cases=int(part.sum()))[1]  # what is at the limit is never drawn
    assert {*whole.ids} == {POOL.ids[row] for row in np.flatnonzero(part)}
    assert (drawn.labels == -1).all()


def test_labels_of_the_pool_are_not_read(drawn):
    others = replace(POOL, labels=(POOL.labels + 1) % 3)
    assert drawn_for(pool=others)[1].ids == drawn.ids


def test_without_a_tuning_set_it_is_the_labelled_part_of_the_pool(drawn):
    unlabelled = replace(POOL, labels=np.full(3000, -1))
    columns = ("logits", "labels", "ids", "groups")
    joined = {
        name: np.concatenate([getattr(each, name) for each in (TUNING, unlabelled)])
        for name in columns
    }
    both = replace(
        POOL, **joined | {name: tuple(joined[name].tolist()) for name in ("ids", "groups")}
    )
    deferral = Deferral(max_error=ERROR, ood_detector="max_logit")
    assert draw(both, 200, deferral=deferral).ids == drawn.ids


def test_nothing_at_or_below_the_limit_is_accepted(drawn):
    right = [CLASSES[x] for x in drawn.deferral.policy_.score(drawn.outputs).predicted]
    deferral = Deferral(max_error=ERROR, ood_detector="max_logit").fit(
        TUNING, drawn.with_labels(right)
    )
    certificate = deferral.certificate_
    assert certificate.accept_threshold == np.nextafter(certificate.pool.limit, np.inf)
    decided = deferral.decide(NEW)
    accepted = decided.decisions == "accept"
    assert decided.acceptance_score[accepted].min() > certificate.pool.limit
    assert accepted.sum() < decided.acceptable.sum()


def test_shares_p_values_and_drift_are_of_the_pool(fitted):
    certificate = fitted.certificate_
    decided = fitted.decide(POOL)
    accepted = (decided.decisions == "accept").sum()
    assert certificate.accepted_images == accepted > certificate.accepted
    assert (
        certificate.coverage_interval.lower < accepted / 3000 < certificate.coverage_interval.upper
    )
    (point,) = [
        x for x in certificate.operating_points if x.threshold == certificate.accept_threshold
    ]
    assert point.coverage == accepted / 3000
    assert point.accepted == certificate.accepted <= 200
    below = (decided.ood_score[:, None] >= decided.ood_score).sum(axis=1)
    np.testing.assert_allclose(decided.ood_p_value, (1 + below) / 3001)
    familiarity, scores, acceptance = DriftMonitor(certificate).tests
    assert len(scores.earlier) == len(familiarity.earlier) == 3000
    assert acceptance.interval.lower < accepted / 3000 < acceptance.interval.upper
    words = "\n".join(certificate_sentences(fitted))
    assert f"{accepted} of 3000 cases of the pool" in words


def test_a_case_without_a_label_counts_as_wrong(drawn):
    whole = Deferral(max_error=ERROR, ood_detector="max_logit")
    named = dict(zip(drawn.ids, labels_of(drawn), strict=True))
    before = whole.fit(TUNING, drawn.with_labels(named)).certificate_
    gone = [name for name in drawn.ids[:20]]
    after = whole.fit(TUNING, drawn.with_labels({**named, **dict.fromkeys(gone, "")})).certificate_
    right = sum(
        CLASSES[x] == named[name]
        for name, x in zip(
            drawn.ids, drawn.deferral.policy_.score(drawn.outputs).predicted, strict=True
        )
        if name in gone
    )
    assert sum(after.errors) == sum(before.errors) + right
    assert right > 10
    del named[drawn.ids[50]]
    with pytest.raises(DataError, match="21 of the first 200"):
        whole.fit(TUNING, drawn.with_labels({**named, **dict.fromkeys(gone, "")}))


@pytest.mark.parametrize(
    ("labels", "words"), [({"1-x": "NV"}, "1-x"), ({"known": "naevus"}, "naevus")]
)
def test_labels_of_other_images_and_classes_are_refused(drawn, labels, words):
    labels = {drawn.ids[0] if name == "known" else name: given for name, given in labels.items()}
    with pytest.raises(DataError, match=words):
        drawn.with_labels(labels)


def test_what_was_fitted_before_the_draw_stays(drawn, fitted):
    frozen = drawn.deferral.policy_
    for name in ("calibration", "detectors", "rule", "ood_detector", "seed"):
        assert getattr(fitted.policy_, name) is getattr(frozen, name)
    labelled = drawn.with_labels(labels_of(drawn))
    with pytest.raises(UsageError, match="drawn for"):
        Deferral(max_error=0.3, ood_detector="max_logit").fit(TUNING, labelled)
    corrected = replace(TUNING, labels=np.append((TUNING.labels[0] + 1) % 3, TUNING.labels[1:]))
    for other in (corrected, images(200, 9)):
        with pytest.raises(DataError, match="another tuning set"):
            Deferral(max_error=ERROR, ood_detector="max_logit").fit(other, labelled)


def test_a_draw_is_found_again_in_its_pool(drawn, tmp_path):
    drawn.deferral.save(tmp_path / "draw")
    kept = Deferral.load(tmp_path / "draw")
    order = np.random.default_rng(0).permutation(3000)
    again = DrawnCases.of_pool(POOL.select(order), kept)
    assert again.ids == drawn.ids
    with pytest.raises(DataError, match="no case of this draw has a label"):
        kept.decide(NEW)
    kept.certify_drawn(again.with_labels(labels_of(again)))
    kept.save(tmp_path / "policy")
    assert Deferral.load(tmp_path / "policy").certificate_ == kept.certificate_
    with pytest.raises(DataError, match="not in the pool"):
        DrawnCases.of_pool(POOL.select(order[:2000]), kept)
    with pytest.raises(DataError, match="not those of the draw"):
        DrawnCases.of_pool(replace(POOL, logits=0.9 * POOL.logits), kept)


def grouped(pool, size):
    """The same images, of which so many one after another are a group."""
    names = tuple(f"g{row // size}" for row in range(len(pool)))
    return replace(pool, groups=names, group_columns=("group",))


def test_one_image_of_each_group_is_drawn_before_the_limit():
    pool = grouped(POOL, 3)
    _, drawn = drawn_for(pool=pool, seed=5)
    certificate = drawn.deferral.certificate_
    assert len(certificate.pool.scores) == 1000
    representatives = pool.select(pool.one_per_group(seed=5))
    assert {*drawn.ids} <= {*representatives.ids}
    scores = drawn.deferral.policy_.score(representatives.outputs).acceptance_score
    np.testing.assert_array_equal(np.sort(scores)[::-1], certificate.pool.scores)


def test_images_of_tuning_or_training_and_of_their_groups_are_never_drawn():
    pool = replace(grouped(POOL, 3), sets=("train",) * 3 + ("test",) + ("",) * 2996)
    tuning = pool.select(np.arange(30, 330, 3))
    _, drawn = drawn_for(cases=2000, pool=pool, tuning=tuning)
    never = {f"1-{row}" for row in (*range(6), *range(30, 330))}
    assert never.isdisjoint(drawn.ids)
    assert len(drawn.deferral.certificate_.pool.scores) == 1000 - 2 - 100
    assert drawn.deferral.cases_.left_out == {"train": 3, "test": 1, "excluded": 2}
    chosen = draw_to_tune(replace(pool, labels=np.full(3000, -1)), 50, seed=0)
    assert len({*chosen.groups}) == 50
    assert {f"1-{row}" for row in range(6)}.isdisjoint(chosen.ids)


def test_on_average_a_batch_counts_in_the_part_alone(tmp_path):
    deferral, drawn = drawn_for(guarantee="average")
    deferral.fit(TUNING, drawn.with_labels(labels_of(drawn))).save(tmp_path / "policy")
    deferral = Deferral.load(tmp_path / "policy")
    certificate, selection = deferral.certificate_, deferral.certificate_.selection
    assert selection.cases == 200
    batch = NEW.select(np.arange(500))
    decided = deferral.decide(batch)
    in_part = decided.acceptable & certificate.above(decided.ood_score)
    in_part &= decided.acceptance_score > certificate.pool.limit
    scores = np.sort(decided.acceptance_score[in_part])[::-1]
    wrong = np.array(selection.wrong[0])
    accepted = 0
    for k, score in enumerate(scores, start=1):  # as guarantee.md has it
        if (1 + (wrong >= score).sum()) * len(scores) / (201 * k) <= ERROR:
            accepted = k
    assert (decided.decisions == "accept").sum() == accepted > 0
    few = batch.select(np.flatnonzero(~in_part)[:120])
    with pytest.raises(DataError, match="above the limit"):
        deferral.decide(few)


@pytest.mark.parametrize(
    "parameters",
    [
        {"class_max_miss": {"MEL": 0.1}},
        {"max_silent_error": 0.1},
        {"max_error": None, "max_silent_error": 0.1},
    ],
)
def test_targets_that_need_the_whole_pool_are_refused(parameters):
    with pytest.raises(UsageError, match="whole pool"):
        drawn_for(**parameters)


def test_a_pool_of_which_nothing_can_be_accepted_is_refused():
    with pytest.raises(DataError, match="none of the 3000 cases"):
        drawn_for(max_error_probability=1e-9)


def test_a_tuning_set_that_was_chosen_is_noticed():
    confident = np.argsort(-POOL.logits.max(axis=1))[:200]
    with pytest.warns(UserWarning, match="not like the pool"):
        drawn_for(tuning=POOL.select(confident))


def test_labels_are_joined_by_id():
    some = label(replace(POOL, labels=np.full(3000, -1)), {"1-5": "MEL", "1-7": ""})
    assert some.labels[[5, 7]].tolist() == [1, -1]
    assert (some.labels >= 0).sum() == 1


@pytest.mark.usefixtures("as_in_use")
def test_each_look_has_a_part_of_the_level_and_all_have_the_whole():
    looks = (50, 100, 200)
    deferral, drawn = drawn_for(looks=looks)
    levels = []
    for size in looks:
        named = dict(zip(drawn.ids[:size], labels_of(drawn), strict=False))
        certificate = deferral.fit(TUNING, drawn.with_labels(named)).certificate_
        assert certificate.cases == size
        levels.append(certificate.level)
        assert certificate.targets.confidence == 0.95
        assert certificate.error_bound is None or certificate.error_bound < 1
    np.testing.assert_allclose(levels, 0.05 * np.array(looks) / sum(looks))
    for labelled, cases in ((60, 50), (95, 100)):  # the largest look that is nearly complete
        some = drawn.with_labels(dict(list(named.items())[:labelled]))
        assert deferral.fit(TUNING, some).certificate_.cases == cases
    with pytest.raises(DataError, match="30 of the first 50"):
        deferral.fit(TUNING, drawn.with_labels(dict(list(named.items())[:20])))


def test_looks_are_kept_with_a_policy(tmp_path):
    deferral, drawn = drawn_for(looks=(100, 200))
    deferral.fit(TUNING, drawn.with_labels(labels_of(drawn))).save(tmp_path / "policy")
    again = Deferral.load(tmp_path / "policy")
    assert again.confidence == 0.95
    assert again.certificate_.looks == (100, 200)
    assert again.certificate_.level == pytest.approx(0.05 * 2 / 3)


@pytest.mark.parametrize(
    ("looks", "parameters", "words"),
    [
        ((200, 100), {}, "growing"),
        ((1, 200), {}, "growing"),
        ((50, 100), {}, "must be the 200 cases"),
        ((100, 200), {"guarantee": "average"}, "average"),
    ],
)
def test_looks_that_cannot_be_planned_are_refused(looks, parameters, words):
    with pytest.raises(UsageError, match=words):
        drawn_for(looks=looks, **parameters)


def test_planned_calibrations_keep_the_tuning_set_and_the_earlier_cases():
    record = Calibrations().planned((100, 200))

    def fit(*rows, tuning=TUNING, **parameters):
        cases = POOL.select(np.arange(*rows))
        return Deferral(**{"max_error": 0.3} | parameters).fit(tuning, cases, looks=record.looks)

    first = fit(100)
    assert first.certificate_.level == pytest.approx(0.05 / 3)
    record = record.added(first)
    assert record.added(fit(200)).repeated(fit(200)) == (0, 0)
    for other in (fit(50, 250), fit(200, tuning=images(200, 9)), fit(200, max_error=0.31)):
        with pytest.raises(DataError, match="all earlier cases"):
            record.added(other)
    with pytest.raises(DataError, match="150 calibration cases"):
        fit(150)
    with pytest.raises(UsageError, match="before"):
        record.planned((10, 20))


def certified(labels, scores, limit, looks):
    """True if any look certifies 10 % for cases above a limit, of which some are wrong."""
    nothing = np.zeros(len(scores))
    cases = ScoredCases(
        scores=scores, ood_scores=nothing, error_probabilities=nothing,
        predicted=np.zeros(len(scores), dtype=int), labels=labels, acceptable=nothing == 0,
    )  # fmt: skip
    for size in looks or [len(scores)]:
        counts = count_ranks(cases[np.arange(size)], TARGETS, classes=CLASSES, floor=limit)
        if loosest_certified([counts], TARGETS.at_look(size, looks))[0] >= 0:
            return True
    return False


@pytest.mark.parametrize("looks", [(), (50, 75, 100, 150, 200, 300)])
def test_a_risk_just_above_the_target_is_rarely_certified_at_any_look(looks):
    random, draws = np.random.default_rng(0), 400
    missed = sum(
        certified((random.random(300) < 0.1001).astype(int), 0.5 + random.random(300), 0.5, looks)
        for _ in range(draws)
    )
    assert missed <= stats.binom.ppf(1 - 1e-4, draws, 0.05)


def test_a_draw_has_a_text_and_needs_images_to_tune_on(drawn):
    assert repr(drawn.deferral).startswith("Deferral(")
    assert repr(drawn) == "DrawnCases for 200 rows, 3 classes"
    unlabelled = replace(POOL, labels=np.full(len(POOL), -1))
    with pytest.raises(DataError, match="no labelled case to tune on; give some as `tuning`"):
        draw(unlabelled, 10, deferral=Deferral(max_error=0.1))
