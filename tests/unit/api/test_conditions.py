"""The closed lists of conditions and reasons, and the words that explain them."""

import re

import pytest

from spillway.api.conditions import ConditionType, reasons_of
from spillway.api.reason_texts import CONDITION_TEXTS, REASON_TEXTS
from spillway.core.plan import Cause

DOCUMENTED = {reason for condition in ConditionType for reason in reasons_of(condition)} | {
    cause.value for cause in Cause
}


def test_every_reason_is_explained_and_nothing_else_is() -> None:
    assert set(REASON_TEXTS) == DOCUMENTED


def test_every_condition_is_explained() -> None:
    assert set(CONDITION_TEXTS) == set(ConditionType)


@pytest.mark.parametrize("condition", ConditionType)
def test_a_condition_lists_each_reason_once(condition: ConditionType) -> None:
    reasons = reasons_of(condition)

    assert len(reasons) == len(set(reasons))


@pytest.mark.parametrize("reason", sorted(DOCUMENTED))
def test_a_reason_is_one_word_in_pascal_case_and_its_text_is_a_sentence(reason: str) -> None:
    text = REASON_TEXTS[reason]

    assert re.fullmatch(r"([A-Z][a-z]*)+", reason)
    assert len(reason) <= 64
    assert text.meaning.endswith(".")
    assert text.check == "" or text.check.endswith((".", "?"))
