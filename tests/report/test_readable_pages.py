"""The pages of `evaluate` and `predict`, as a reader meets them in a browser."""

import pytest
from browsing import needs_chromium

pytestmark = needs_chromium


@pytest.mark.parametrize("page", ["hostile_page", "damaged_sheet"])
def test_the_report_of_an_evaluation_and_the_contact_sheet_violate_nothing(
    page, violations_in, request
):
    assert violations_in(request.getfixturevalue(page)) == []
