"""The images that a policy was fitted on, and those of other predictions among them."""

import numpy as np
import pytest

from misgiving.deferral.identities import Identities
from misgiving.predictions.record import Predictions


def identities(count, *, contents=None, groups=None, first=0, has_ids=True, seed=0, decimals=9):
    return Identities.of(
        Predictions(
            logits=np.random.default_rng(seed).normal(size=(count, 3)).round(decimals),
            labels=np.zeros(count, dtype=int),
            classes=("a", "b", "c"),
            ids=tuple(f"{first + number}.png" for number in range(count)),
            groups=groups or ("",) * count,
            hashes=contents and tuple(f"{number:064x}" for number in contents),
            has_ids=has_ids,
        )
    )


def test_no_name_of_an_image_or_of_a_group_is_kept():
    kept = identities(2, groups=("Ann Smith", ""))
    assert "Ann" not in repr(kept)
    assert "png" not in repr(kept)
    assert kept.groups[1] == ""
    assert kept.group_count == 2


def test_coarse_outputs_identify_images_where_most_of_a_set_recurs_in_the_same_rows():
    random = np.random.default_rng(0)
    policy, new = random.choice([0.0, 0.5, 1.0], p=(0.3, 0.1, 0.6), size=(2, 100, 2))

    def marked(logits):
        images = [
            Identities.of(Predictions.of({"logits": each, "classes": ["a", "b"]}))
            for each in (logits, policy)
        ]
        return images[0].among(images[1])[0].sum()

    assert (new == policy).all(axis=1).sum() > 20
    assert marked(new) == 0
    assert marked(policy) == marked(np.vstack([policy, new])) == 100
    assert marked(policy[:40]) == 40
    half = np.vstack([policy[:50], 1 - policy[50:]])
    assert marked(half[:99]) == 50
    assert marked(half) == 0


AMONG = {  # images, those of the policy, and the numbers of the used and of the related ones
    "the same content": ({"contents": (9, 3, 8), "first": 7}, {"contents": (1, 2, 3)}, [1], []),
    "a name with other content": ({"contents": (8, 9)}, {"contents": (1, 2)}, [], []),
    "content not known": ({"contents": (1, 2, 3)}, {"count": 3}, [0, 1, 2], []),
    "content not known of the policy": ({"count": 3}, {"contents": (1, 2, 3)}, [0, 1, 2], []),
    "the same outputs": ({"has_ids": False}, {"has_ids": False}, [0, 1, 2], []),
    "other outputs": ({"has_ids": False, "seed": 1}, {"has_ids": False}, [], []),
    "outputs that are alike, in other rows": (
        {"has_ids": False, "decimals": -1, "first": 7},
        {"has_ids": False, "decimals": -1},
        [],
        [],
    ),
    "others of a named group": (
        {"first": 10, "groups": ("bo", "", "cy", "ann")},
        {"groups": ("ann", "", "bo")},
        [],
        [0, 3],
    ),
    "others of the group of a used image": (
        {"contents": (1, 2, 3), "first": 5, "groups": ("x", "x", "")},
        {"contents": (1,)},
        [0],
        [1],
    ),
}


@pytest.mark.parametrize("case", AMONG)
def test_images_are_the_same_by_content_name_or_outputs_and_related_by_group(case):
    new, policy, used, related = AMONG[case]
    images, others = (
        identities(**{"count": len(of.get("contents") or of.get("groups") or "abc"), **of})
        for of in (new, policy)
    )
    marked = images.among(others)
    assert [np.flatnonzero(mask).tolist() for mask in marked] == [used, related]
