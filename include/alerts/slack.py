from __future__ import annotations

from dataclasses import dataclass, field

from include.errors import ServiceError

DEFAULT_BASE_URL = "https://slack.com/api/"


@dataclass(frozen=True, kw_only=True)
class SlackPoster:
    """Posts with a bot token that has the scope `chat:write`.

    Args:
        token: The bot's token.
        base_url: Where the Slack Web API is.
        timeout_s: Seconds until a silent Slack counts as down; the task that alerts waits for it.
    """

    token: str = field(repr=False)
    base_url: str = DEFAULT_BASE_URL
    timeout_s: int = 10

    def post(self, *, channel: str, text: str, thread_ts: str | None) -> str:
        """Post to a channel, into a thread if one is named, and return the thread.

        The text is shown as it is: nothing in it can mention people, link, or format.

        Raises:
            ServiceError: Slack refused the message or did not answer.
        """
        from slack_sdk import WebClient
        from slack_sdk.errors import SlackApiError

        client = WebClient(token=self.token, base_url=self.base_url, timeout=self.timeout_s)
        try:
            answer = client.chat_postMessage(
                channel=channel,
                text=escape(text),
                thread_ts=thread_ts,
                unfurl_links=False,
                unfurl_media=False,
            )
        except SlackApiError as error:
            # The error's own text holds the whole answer; its code says it all.
            reason = error.response.get("error") or f"HTTP {error.response.status_code}"
            raise self._refused(channel, reason) from error
        except (OSError, ValueError) as error:
            raise self._refused(channel, repr(error)) from error
        return thread_ts or str(answer["ts"])

    def _refused(self, channel: str, reason: str) -> ServiceError:
        return ServiceError(
            f"Slack must take a message to {channel} within {self.timeout_s} s; got {reason}. The message is in the "
            "ledger. Look at the connection's token and scope (chat:write), and invite the bot to the channel."
        )


def escape(text: str) -> str:
    """Return text in which Slack sees no control sequence, so that an error's message cannot call `<!channel>`.

    >>> escape("a < b & <!channel>")
    'a &lt; b &amp; &lt;!channel&gt;'
    """
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
