"""What a user agent says of itself: browser, operating system, kind of device, and whether it is a bot."""

from functools import lru_cache
from typing import NamedTuple

import ua_parser
from crawlerdetect import CrawlerDetect

# crawlerdetect takes time that grows with the square of a long word: 8 KiB of one letter takes it 9 s, 512 take 35 ms.
_LONGEST = 512

_DESKTOP_SYSTEMS = frozenset(
    (
        *(
            "Windows",
            "Mac OS X",
            "Mac OS",
            "Chrome OS",
            "FreeBSD",
            "OpenBSD",
            "NetBSD",
            "DragonFly",
            "Solaris",
        ),
        *(
            "Linux",
            "Ubuntu",
            "Kubuntu",
            "Debian",
            "Fedora",
            "CentOS",
            "Red Hat",
            "SUSE",
            "Mandriva",
            "Mageia",
        ),
        *("Gentoo", "Slackware", "Arch Linux", "Linux Mint", "PCLinuxOS"),
    )
)
_MOBILE_SYSTEMS = frozenset(
    (
        *("iOS", "Android", "Windows Phone", "Windows Mobile", "BlackBerry OS", "Symbian OS", "Firefox OS"),
        *("KaiOS", "webOS", "Bada", "Tizen", "Maemo", "MeeGo", "Brew MP", "Nokia Series 40"),
    )
)
_MOBILE_DEVICES = frozenset(("Generic Feature Phone", "Generic Smartphone"))


class UserAgent(NamedTuple):
    """Families without versions; "" = unknown."""

    browser: str
    os: str
    device: str
    """One of "desktop", "mobile", "tablet", "bot" and "other"; "" when there is no user agent."""
    is_bot: bool


@lru_cache(maxsize=20_000)
def classify(user_agent: str) -> UserAgent:
    """What is known of a user agent, of which the first 512 characters are looked at.

    Bots are those of crawlerdetect's list; a missing user agent ("" or "-") is not on it and says nothing else either.
    Otherwise the device is a tablet when it is named so (iPad, Kindle, Tablet); "other" when it says "TV"; mobile when
    it says "Mobi" or is a telephone by name or system; a tablet when it runs Android and says none of this; desktop
    when a known browser runs on a computer's system; and else "other". An iPad that asks for desktop sites says it is
    a Mac and counts as one.
    """
    text = user_agent[:_LONGEST]
    if text.strip() in ("", "-"):
        return UserAgent("", "", "", False)
    parsed = ua_parser.parse(text).with_defaults()
    browser = _known(parsed.user_agent.family)
    system = _known(parsed.os.family)
    if _crawlers.is_crawler(text):
        return UserAgent(browser, system, "bot", True)
    return UserAgent(browser, system, _device(text, browser, system, parsed.device.family), False)


_crawlers = CrawlerDetect()


def _known(family: str) -> str:
    return "" if family == "Other" else family


def _device(text: str, browser: str, system: str, model: str) -> str:
    # "Tablet PC" is what Internet Explorer says on any Windows that could be used with a pen.
    if "iPad" in text or "Kindle" in model or "Tablet" in text.replace("Tablet PC", ""):
        return "tablet"
    if "TV" in text:
        return "other"
    if "Mobi" in text or model in _MOBILE_DEVICES:
        return "mobile"
    if system == "Android" and "Opera Mini" not in text:
        return "tablet"
    if system in _MOBILE_SYSTEMS:
        return "mobile"
    if system in _DESKTOP_SYSTEMS and browser:
        return "desktop"
    return "other"
