"""What a user agent says of its browser, system, device, and of being a bot."""

import time

import pytest

from cli.user_agents import UserAgent, classify

WEBKIT = "AppleWebKit/537.36 (KHTML, like Gecko)"


@pytest.mark.parametrize(
    ("user_agent", "expected"),
    [
        (
            f"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_9_1) {WEBKIT} Chrome/32.0.1700.77 Safari/537.36",
            UserAgent("Chrome", "Mac OS X", "desktop", False),
        ),
        (
            "Mozilla/5.0 (X11; Ubuntu; Linux x86_64; rv:27.0) Gecko/20100101 Firefox/27.0",
            UserAgent("Firefox", "Ubuntu", "desktop", False),
        ),
        (
            "Mozilla/4.0 (compatible; MSIE 8.0; Windows NT 6.1; Trident/4.0; Tablet PC 2.0)",
            UserAgent("IE", "Windows", "desktop", False),
        ),
        (
            f"Mozilla/5.0 (iPhone; CPU iPhone OS 7_0_4 like Mac OS X) {WEBKIT} Version/7.0 "
            "Mobile/11B554a Safari/9537.53",
            UserAgent("Mobile Safari", "iOS", "mobile", False),
        ),
        (
            f"Mozilla/5.0 (iPad; CPU OS 7_0_4 like Mac OS X) {WEBKIT} Version/7.0 Mobile/11B554a Safari/9537.53",
            UserAgent("Mobile Safari", "iOS", "tablet", False),
        ),
        (
            f"Mozilla/5.0 (Linux; Android 4.4.2; Nexus 5) {WEBKIT} Chrome/32.0.1700.99 Mobile Safari/537.36",
            UserAgent("Chrome Mobile", "Android", "mobile", False),
        ),
        (
            f"Mozilla/5.0 (Linux; Android 4.4.2; Nexus 7) {WEBKIT} Chrome/32.0.1700.99 Safari/537.36",
            UserAgent("Chrome", "Android", "tablet", False),
        ),
        (
            f"Mozilla/5.0 (Web0S; Linux/SmartTV) {WEBKIT} Chrome/79.0.3945.79 Safari/537.36",
            UserAgent("Chrome", "Web0S", "other", False),
        ),
        (
            "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
            UserAgent("Googlebot", "", "bot", True),
        ),
        ("Chef Client/10.18.2 (ruby-1.9.3-p327; x86_64-linux)", UserAgent("", "Linux", "other", False)),
        ("no browser we know", UserAgent("", "", "other", False)),
        ("", UserAgent("", "", "", False)),
        ("-", UserAgent("", "", "", False)),
        ("  ", UserAgent("", "", "", False)),
    ],
)
def test_families_device_and_bots_are_told(user_agent: str, expected: UserAgent) -> None:
    """Families come without versions; what is unknown is ""; a missing user agent is no bot and no device."""
    assert classify(user_agent) == expected


def test_a_telephone_that_is_a_bot_is_a_bot() -> None:
    """Google's crawler claims to be an iPhone and names itself at the end."""
    agent = classify(
        "Mozilla/5.0 (iPhone; CPU iPhone OS 6_0 like Mac OS X) AppleWebKit/536.26 (KHTML, like Gecko) Version/6.0 "
        "Mobile/10A5376e Safari/8536.25 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"
    )
    assert (agent.device, agent.is_bot) == ("bot", True)


def test_no_user_agent_takes_long() -> None:
    """64 KiB of one word are classified in less than a second, though crawlerdetect alone would take minutes."""
    classify("warm up")
    began = time.perf_counter()
    assert classify("Mozilla/5.0 " + "a" * 65_000).device == "other"
    assert time.perf_counter() - began < 1
