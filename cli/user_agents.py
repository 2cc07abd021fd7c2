"""Classifies user agents: browser, operating system, kind of device, and whether it is a bot."""

from functools import lru_cache
from typing import NamedTuple

import ua_parser
from crawlerdetect import CrawlerDetect

# The time of crawlerdetect grows with the square of a long word: 8 KiB of one letter take 9 s, 512 letters take 35 ms.
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
    """The families of browser and operating system, without versions, and the kind of device; "" = unknown."""

    browser: str
    os: str
    device: str
    """One of "desktop", "mobile", "tablet", "bot" and "other"; "" if there is no user agent."""
    is_bot: bool


@lru_cache(maxsize=20_000)
def classify(user_agent: str) -> UserAgent:
    """Classifies a user agent by its first 512 characters.

    Bots are those of crawlerdetect's list. A missing user agent ("" or "-") is no bot, and all fields are "". Otherwise
    the first rule that fits gives the device: "tablet" if it is named iPad, Kindle or Tablet; "other" if TV is in the
    text; "mobile" if Mobi is, or if the device is a generic telephone; "tablet" if the system is Android, unless with
    Opera Mini; "mobile" if the system is one of telephones; "desktop" if a known browser runs on a system of computers;
    else "other". An iPad that asks for desktop sites sends the user agent of a Mac and is a desktop.
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
    # Internet Explorer sends "Tablet PC" on any Windows that supports a pen.
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
