"""The two ways to a number, each by itself: statements, and how a calculation ends."""

import pytest

from actframe.benchmarks.calculations import concluded_numbers, stated_numbers
from actframe.benchmarks.claims import NO_ANSWER


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("The answer is 15 apples in 3 boxes.", {"15"}),
        ("The answer is 3 + 4 = 7.", {"7"}),
        ("The answer is 3 + 4.", set()),
        ("The answer is 18/30, which is 0.6.", {"0.6"}),
        ("The answer is 46, since 96 - 50 = 46, not 40.", {"46"}),
        ("The answer is 5 or 6.", {"5", "6"}),
        ("The answer is not 5.", set()),
        ("The answer is not given.", {NO_ANSWER}),
        ("The sum is 7, which is the answer.", {"7"}),
        ("Total: $12.50", {"12.5"}),
        ("The total cost is $12.50.", set()),
    ],
)
def test_statements(text, numbers):
    assert stated_numbers(text) == numbers


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("She has 8 pens in 2 boxes.", {"8"}),
        ("There are 46 apples left after he sells 50.", {"46"}),
        ("So it takes 3 hours. That was 1 trip!\nGood luck!", {"3"}),
        ("First 12 * 8 = 96. Then 96 - 50 = 46.", {"46"}),
        ("He has 3 apples and 4 pears.", {"3", "4"}),
        ("12 - 3\nTotal = 9", {"9"}),
    ],
)
def test_a_finished_calculation_ends_with_its_result(text, numbers):
    assert concluded_numbers(text) == numbers


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("We add 3 and 4. That is 3 + 4 =", set()),
        ("We add 3 and 4. So it is 7 hours. To check this, we", {"7"}),
        ("We add 3 and 4. So it is 7 hours. Now we multiply that by", set()),
        ("We add 3 and 4. So it is 3 + 4 = 7 hours for the", {"7"}),
        ("We add 3 and 4. So it is 3 + 4 = 7", set()),
        ("We have 12 boxes. Next, let's subtract those that were sold.", set()),
    ],
)
def test_a_calculation_that_breaks_off_counts_only_as_far_as_it_concluded(text, numbers):
    assert concluded_numbers(text) == numbers


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("Tom has 12 pens and gives away 5.", set()),
        ("Tom has 12 pens and gives away 5. He has 7 left.", {"7"}),
        ("He has 12 - 5 = 7. In this case, the number given is 5.", {"7"}),
        ("-5", {"-5"}),
        ("5", {"5"}),
    ],
)
def test_what_repeats_the_question_is_no_result(text, numbers):
    assert (
        concluded_numbers(text, "Tom has 12 pens and gives away 5. How many are left? Say -5 for five too few.")
        == numbers
    )
