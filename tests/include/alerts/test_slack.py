from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from include.alerts.slack import SlackPoster
from include.errors import ServiceError

if TYPE_CHECKING:
    from tests.fakes import FakeSlack


def test_a_message_is_posted_with_the_token_and_returns_its_thread(slack: FakeSlack) -> None:
    poster = SlackPoster(token="xoxb-right", base_url=slack.base_url)
    thread = poster.post(channel="#ml", text="first", thread_ts=None)
    assert poster.post(channel="#ml", text="second", thread_ts=thread) == thread
    first, second = slack.messages
    assert (first["channel"], first["text"], first.get("thread_ts")) == ("#ml", "first", None)
    assert (second["text"], second["thread_ts"]) == ("second", thread)


def test_nothing_in_a_text_can_mention_people(slack: FakeSlack) -> None:
    SlackPoster(token="xoxb-right", base_url=slack.base_url).post(channel="#ml", text="<!channel> & co", thread_ts=None)
    assert slack.messages[0]["text"] == "&lt;!channel&gt; &amp; co"


def test_a_refusal_names_slacks_reason_and_not_the_token(slack: FakeSlack) -> None:
    poster = SlackPoster(token="xoxb-wrong", base_url=slack.base_url)
    with pytest.raises(ServiceError, match="message to #ml within 10 s; got invalid_auth") as caught:
        poster.post(channel="#ml", text="x", thread_ts=None)
    assert "xoxb-wrong" not in str(caught.value)
    assert "xoxb-wrong" not in repr(poster)


def test_a_server_that_fails_is_named(slack: FakeSlack) -> None:
    slack.status = 500
    with pytest.raises(ServiceError, match="got HTTP 500"):
        SlackPoster(token="xoxb-right", base_url=slack.base_url).post(channel="#ml", text="x", thread_ts=None)


def test_nobody_listening_is_named(free_port: int) -> None:
    poster = SlackPoster(token="xoxb-right", base_url=f"http://127.0.0.1:{free_port}/api/")
    with pytest.raises(ServiceError, match="Connection refused"):
        poster.post(channel="#ml", text="x", thread_ts=None)


def test_a_silent_server_is_given_up(slack: FakeSlack) -> None:
    slack.delay_s = 3
    with pytest.raises(ServiceError, match=r"within 1 s; got .*timed out"):
        SlackPoster(token="xoxb-right", base_url=slack.base_url, timeout_s=1).post(
            channel="#ml", text="x", thread_ts=None
        )
