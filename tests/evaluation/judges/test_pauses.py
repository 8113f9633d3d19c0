import pytest

from fedvpa.evaluation.judges.pauses import wished_pause

NOW = 1445412480.0
"""Wed, 21 Oct 2015 07:28:00 GMT."""


@pytest.mark.unit
@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 0.0),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "soon"}, 0.0),
        ({"retry-after": "inf"}, 0.0),
        ({"retry-after": "nan"}, 0.0),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:06 GMT"}, 6.0),
        ({"retry-after": "Wed, 21 Oct 2015 09:28:06 +0200"}, 6.0),
        ({"retry-after": "Wednesday, 21-Oct-15 07:28:06 GMT"}, 6.0),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:06 -0000"}, 6.0),
        ({"retry-after": "2015-10-21T07:28:06Z"}, 6.0),
        ({"retry-after": "Wed, 21 Oct 2015 07:27:00 GMT"}, 0.0),
        ({"retry-after": "Wed, 99 Oct 2015 07:28:06 GMT"}, 0.0),
        # The endpoint's own clock counts where it says what it shows: here it is an hour behind.
        ({"retry-after": "Wed, 21 Oct 2015 06:28:06 GMT", "date": "Wed, 21 Oct 2015 06:28:00 GMT"}, 6.0),
        ({"retry-after-ms": "4000"}, 4.0),
        ({"retry-after-ms": "400", "retry-after": "1"}, 0.4),
        ({"retry-after-ms": "x", "retry-after": "1"}, 1.0),
    ],
    ids=str,
)
def test_retry_after_is_read_as_seconds_milliseconds_and_dates(headers, seconds):
    for limited in (True, False):
        assert wished_pause(headers, limited=limited, now=NOW) == pytest.approx(seconds)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("reset", "seconds"),
    [
        ("20ms", 0.02),
        ("6m0s", 360.0),
        ("1h2m3.5s", 3723.5),
        ("17", 17.0),
        (str(int(NOW) + 9), 9.0),
        (str(int(NOW + 9) * 1000), 9.0),
        ("2015-10-21T07:28:10Z", 10.0),
        ("later", 0.0),
    ],
)
def test_resets_of_limits_that_are_used_up_count_where_nothing_else_is_said(reset, seconds):
    used = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": reset}
    assert wished_pause(used, limited=True, now=NOW) == pytest.approx(seconds)
    assert wished_pause(used, limited=False, now=NOW) == 0.0
    assert wished_pause(used | {"x-ratelimit-remaining-requests": "5"}, limited=True, now=NOW) == 0.0
    assert wished_pause(used | {"retry-after": "3"}, limited=True, now=NOW) == 3.0


@pytest.mark.unit
def test_the_longest_of_several_used_up_limits_counts():
    headers = {
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "2s",
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-tokens": "11s",
        "x-ratelimit-remaining-days": "3",
        "x-ratelimit-reset-days": "99s",
    }
    assert wished_pause(headers, limited=True, now=NOW) == pytest.approx(11.0)
