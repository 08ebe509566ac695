"""What measurements come to."""

import pytest

from fedsdn.bench.figures import longest_silence, percentile, rate, summary
from fedsdn.bench.stream import bucket_at


@pytest.mark.parametrize(
    ("buckets", "silence"),
    [
        ({1: 5, 2: 5, 3: 5, 4: 5}, 0),
        ({1: 5, 4: 5}, 2),
        ({4: 5}, 3),
        ({1: 5}, 3),
        ({}, 4),
        ({1: 5, 2: 0, 3: 5, 4: 5}, 1),
        ({0: 5, 5: 5, 99: 5}, 4),
    ],
)
def test_longest_silence_is_a_run_of_empty_buckets_between_two_moments(
    buckets: dict[int, int], silence: int
) -> None:
    assert longest_silence(buckets, 1, 4) == silence


def test_the_last_of_a_bucket_is_not_the_next_one() -> None:
    assert [bucket_at(seconds) for seconds in (12.0, 12.0099, 12.0101)] == [1200, 1200, 1201]


@pytest.mark.parametrize(("percent", "value"), [(0, 1), (50, 50), (99, 99), (100, 100)])
def test_percentiles_are_values_that_were_measured(percent: float, value: float) -> None:
    assert percentile([float(n) for n in range(100, 0, -1)], percent) == value


def test_of_few_values_the_99th_percentile_is_the_worst() -> None:
    assert percentile([3.0, 1.0, 2.0], 99) == 3.0


def test_no_values_have_no_percentile() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 99)
    assert summary([]) is None


def test_summary() -> None:
    found = summary([4.0, 1.0, 2.0, 3.0])
    assert found is not None
    assert (found.n, found.median, found.p99, found.worst) == (4, 2.5, 4.0, 4.0)


def test_rate_is_that_of_the_last_seconds() -> None:
    samples = [(0.0, 0), (1.0, 1000), (2.0, 4000), (3.0, 4000)]
    assert rate(samples, 1.0) == 0
    assert rate(samples, 2.0) == 1500
    assert rate(samples, 3.0) == pytest.approx(4000 / 3)


def test_samples_that_do_not_reach_back_so_far_have_no_rate() -> None:
    assert rate([(0.0, 0), (0.5, 1000)], 1.0) == 0
    assert rate([], 1.0) == 0
